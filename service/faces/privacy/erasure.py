"""Erases a person: the record, everything encrypted with its key, and models trained on it.

With the models go the jobs that made, measured or used them: their results and files name people.

If a step fails, the erasure stays marked in the database as unfinished. A repeated request resumes
it, and so does `resume`, which runs periodically.
"""

from collections.abc import Collection
from contextlib import suppress
from datetime import timedelta

import structlog

from contracts.errors import Conflict, DiskUnusable, JobNotFound, OpsinError
from contracts.faces.subjects import Erased, ErasedModel
from models.faces import provenance
from models.faces.provenance import TrainedVersion
from service.dependencies import Services
from service.threads import run_in_threadpool

log = structlog.get_logger()

_REPEAT_FOR = timedelta(hours=1)  # longer than any deadline, and than stopping a training takes


async def erase(services: Services, subject_id: str) -> Erased:
    """Delete a subject, every trace of it, and every model version that was trained on it.

    The versions are deleted before the record, without which it would be unknown whose they are,
    and again after it, in case a training published one in between. A training that ends later
    finds no record and withdraws its version.

    Raises:
        SubjectNotFound: There is no such subject and no unfinished erasure of it.
        Unavailable: The database does not answer, the disk keeps files, or it cannot be read whose
            a version is. Repeating the request resumes the erasure.
    """
    erased = await begin(services, subject_id)
    await services.changes.announce("faces", "models")
    await services.faces.finish_erasures([subject_id])
    return erased


async def begin(services: Services, subject_id: str) -> Erased:
    """Erase without the last step, which costs as much for one subject as for many.

    The caller passes the id to `FaceServices.finish_erasures`; otherwise `resume` does.

    Raises:
        SubjectNotFound: As `erase`.
        Unavailable: As `erase`.
    """
    faces = services.faces
    await run_in_threadpool(faces.erasures.require, subject_id)
    in_thread = services.lock_waiting.run_blocking
    versions = await in_thread(_delete_versions, services, subject_id)
    erased = (await faces.erase(subject_id)).erased
    versions += await in_thread(_delete_versions, services, subject_id)
    await in_thread(_erase_jobs, services, subject_id)
    await in_thread(provenance.require_readable, services.store)
    models = [ErasedModel(model=trained.model, version=trained.version) for trained in versions]
    return Erased(erased=erased.model_copy(update={"models": models}))


async def resume(services: Services) -> None:
    """Resume unfinished erasures, and repeat those of the last hour.

    A request in progress during an erasure, such as an upload, may have written about the subject
    afterwards.

    Raises:
        Unavailable: The database does not answer.
    """
    faces = services.faces
    no_orphans = await services.lock_waiting.run_blocking(_delete_orphaned_versions, services)
    pending = await run_in_threadpool(faces.erasures.pending, _REPEAT_FOR)
    done = []
    for subject_id in pending:
        try:
            await faces.erase_traces(subject_id)
            await run_in_threadpool(_cancel_trainings, services, subject_id)
            await run_in_threadpool(_erase_jobs, services, subject_id)
        except (OpsinError, OSError) as error:
            log.warning("erasure_unfinished", subject=subject_id, error=type(error).__name__)
        else:
            done.append(subject_id)
    if done and no_orphans:
        await faces.finish_erasures(done)


def _delete_orphaned_versions(services: Services) -> bool:
    """Delete the versions whose subjects were erased; returns whether that succeeded."""
    try:
        subject_ids = provenance.subjects_of(services.store)
        for subject_id in services.faces.erasures.erased_among(subject_ids):
            _delete_versions(services, subject_id)
        provenance.require_readable(services.store)
    except (OpsinError, OSError, ValueError) as error:  # such as damaged aliases
        log.warning("erasure_unfinished", where="versions", error=type(error).__name__)
        return False
    return True


def _delete_versions(services: Services, subject_id: str) -> list[TrainedVersion]:
    """Delete the versions, and then the jobs that used or made them: their results name people."""
    _cancel_trainings(services, subject_id)
    versions = provenance.versions_trained_on(services.store, subject_id)
    try:
        return provenance.erase(services.store, subject_id)
    finally:
        with suppress(DiskUnusable):  # they are found again, and then keep the erasure from ending
            _erase_jobs(services, subject_id, versions)


def _erase_jobs(
    services: Services, subject_id: str, versions: Collection[TrainedVersion] = ()
) -> None:
    numbers = {(trained.model, trained.version) for trained in versions}
    services.jobs.erase_about(subject_id, numbers)


def _cancel_trainings(services: Services, subject_id: str) -> None:
    for job_id in services.jobs.using_subject(subject_id):
        try:
            services.jobs.cancel(job_id)
        except (JobNotFound, Conflict):
            continue  # it has ended
