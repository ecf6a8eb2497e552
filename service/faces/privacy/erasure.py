"""Erases a person: the record, everything encrypted with its key, and models trained on it.

With the models go the jobs that made, measured or used them: their results and files name people.

If a step fails, the erasure stays marked in the database as unfinished. A repeated request resumes
it, and so does `resume`, which runs before the first request is answered, and then periodically.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any

import structlog

from contracts.errors import OpsinError, SubjectNotFound
from contracts.faces.erased_ids import erased_ids
from contracts.faces.subjects import Erased, ErasedModel
from models.faces import provenance
from models.faces.provenance import TrainedVersion
from service.dependencies import Services
from service.faces.privacy.versions import (
    cancel_trainings,
    delete_versions,
    deleted_versions,
    erase_jobs,
    still_named,
)
from service.threads import run_in_threadpool

log = structlog.get_logger()

_REPEAT_FOR = timedelta(hours=1)  # longer than any deadline, and than stopping a training takes
_LONGEST_REST_SECONDS = 1.0
_REDIS_SECONDS = 5.0  # of a request, whose deadline the rewrite of a large file may exceed


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
    await services.faces.finish_erasures([subject_id], redis_seconds=_REDIS_SECONDS)
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
    store, jobs = services.store, services.jobs
    versions = await in_thread(delete_versions, store, jobs, subject_id)
    erased = (await faces.erase(subject_id)).erased
    versions += await in_thread(delete_versions, store, jobs, subject_id)
    await in_thread(erase_jobs, jobs, subject_id)
    await in_thread(provenance.require_readable, store)
    models = [ErasedModel(model=trained.model, version=trained.version) for trained in versions]
    return Erased(erased=erased.model_copy(update={"models": models}))


async def resume(services: Services) -> None:
    """Resume unfinished erasures, and repeat those of the last hour.

    A request in progress during an erasure, such as an upload, may have written about the subject
    afterwards. Jobs that used a version of people that is deleted are erased with anybody: of whom
    it was is not known any more. Those of the home's list who are back are erased again, as from
    copied files. Who has nothing left, as nearly all of the last hour, costs no transaction that
    writes.

    Raises:
        Unavailable: The database does not answer.
    """
    faces, jobs = services.faces, services.jobs
    listed, named = await run_in_threadpool(_back_from_list, services)
    no_orphans = await services.lock_waiting.run_blocking(_delete_orphans, services, named or set())
    for subject_id in listed:
        await _erase_again(services, subject_id)
    pending = await run_in_threadpool(faces.erasures.pending, _REPEAT_FOR)
    again = list(dict.fromkeys([*pending, *sorted(named or ())]))
    deleted = await run_in_threadpool(_deleted_versions, services) if again else []
    left = set(again)  # if it is unknown whom jobs are about
    if named is not None:
        left = named | await run_in_threadpool(_unfinished_or_left, services, again)
        left.update(again[:1] if deleted else ())  # with anybody
    failed = set[str]()
    for subject_id in again:
        if subject_id not in left:
            continue
        try:
            async with rest_after():
                await faces.erase_traces(subject_id)
                await run_in_threadpool(cancel_trainings, jobs, subject_id)
                await run_in_threadpool(erase_jobs, jobs, subject_id, deleted)
        except (OpsinError, OSError) as error:
            log.warning("erasure_unfinished", subject=subject_id, error=type(error).__name__)
            failed.add(subject_id)
    if no_orphans and (done := [one for one in again if one not in failed]):
        await faces.finish_erasures(done)


@asynccontextmanager
async def rest_after() -> AsyncIterator[None]:
    """After one erasure of many, leave the database to others for as long as it took."""
    began = time.monotonic()
    try:
        yield
    finally:
        await asyncio.sleep(min(time.monotonic() - began, _LONGEST_REST_SECONDS))


def _unfinished_or_left(services: Services, ids: Collection[str]) -> set[str]:
    """Those of `ids` whose erasure is unfinished, or of whom something was written later.

    Jobs that name them are not among it, see `still_named`.
    """
    faces = services.faces
    found = faces.erasures.unfinished_among(ids) | faces.subjects.with_traces(ids)
    return found | (services.jobs.subjects_in_training() & set(ids))


def _back_from_list(services: Services) -> tuple[list[str], set[str] | None]:
    """Those of the home's list who are subjects, and those whom a version or a job is about.

    None for the latter if the list cannot be read.
    """
    home = services.faces.job_files.root.parent
    try:
        existing = services.faces.erasures.existing_among(erased_ids(home))
        return existing, still_named(home, services.store, services.jobs)
    except OSError as error:
        log.warning("erasure_unfinished", where="list", error=type(error).__name__)
        return [], None


def _deleted_versions(services: Services) -> list[TrainedVersion]:
    try:
        return deleted_versions(services.store, services.jobs)
    except (OpsinError, OSError) as error:  # such as names of models that no model can have
        log.warning("erasure_unfinished", where="jobs", error=type(error).__name__)
        return []


async def _erase_again(services: Services, subject_id: str) -> None:
    try:
        with suppress(SubjectNotFound):  # another process was faster
            await services.faces.erase(subject_id)
    except (OpsinError, OSError) as error:
        log.warning("erasure_unfinished", subject=subject_id, error=type(error).__name__)


def _delete_orphans(services: Services, named: set[str]) -> bool:
    """Delete the versions whose subjects were erased; returns whether that succeeded.

    Args:
        named: Of the home's list; the others are in the audit log.
    """
    store = services.store
    steps: list[partial[Any]] = [partial(provenance.require_readable, store)]
    try:
        erased = services.faces.erasures.erased_among(provenance.subjects_of(store))
        steps += [
            partial(delete_versions, store, services.jobs, one) for one in sorted(erased | named)
        ]
    except (OpsinError, OSError) as error:
        log.warning("erasure_unfinished", where="versions", error=type(error).__name__)
        return False
    is_done = True
    for step in steps:  # one that fails does not keep the others from being taken
        try:
            step()
        except (OpsinError, OSError, ValueError) as error:  # such as damaged aliases
            log.warning("erasure_unfinished", where="versions", error=type(error).__name__)
            is_done = False
    return is_done
