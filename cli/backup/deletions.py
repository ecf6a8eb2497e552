"""Repeats after a restore the erasures and deletions that the backup's database does not know."""

from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime

from sqlalchemy import Engine

from cli.output import errors, notes, warn
from contracts.errors import SubjectNotFound, Unavailable
from contracts.settings import Settings
from database.datasets import DatasetRows
from database.engine import open_engine, writing
from database.faces.face_files import FaceFiles
from database.faces.privacy.erased_ids import add_erased, erased_ids
from database.faces.privacy.erasures import Erasures, delete_traces
from database.faces.subjects import erase
from database.jobs.files import JobFiles
from database.jobs.jobs import Jobs
from database.jobs.queries import delete_jobs
from models.datasets.store import DatasetStore
from models.faces import provenance
from models.store.aliases import DamagedAliasesError
from models.store.store import Store
from service.faces.privacy.versions import delete_versions, erase_jobs, still_named


def repeat_erasures(settings: Settings, meanwhile: Collection[str]) -> int:
    """Erase the subjects of the list that the restored database holds; returns how many.

    The audit log records each. With them go the versions that were trained on anyone of the list,
    and the jobs about them, whether or not the database still holds the subject. Redis may hold
    something of them too, so the service, once started, ends these erasures.

    Args:
        meanwhile: The ids of more subjects, which were erased while the backup was taken. They come
            onto the list.

    Raises:
        Unavailable: The database does not answer, or a file of a job cannot be deleted.
        OSError: The list cannot be read, or a version not deleted.
    """
    files, job_files = FaceFiles(settings.faces_home), JobFiles.of(settings)
    add_erased(settings.home, meanwhile)
    engine, count = open_engine(settings.database), 0
    try:
        _erase_named(settings, engine, Jobs(engine, _now, job_files), job_files)
        existing = Erasures(engine, _now).existing_among(erased_ids(settings.home))
        for subject_id in existing:
            with suppress(SubjectNotFound):
                _remove(engine, job_files, erase(engine, files, subject_id, _now()).jobs)
                count += 1
    finally:
        engine.dispose()
    return count


def _erase_named(settings: Settings, engine: Engine, jobs: Jobs, files: JobFiles) -> None:
    """Delete what the restored store and database hold of everybody on the list."""
    store, deleted = Store(settings.store_home), set[str]()
    for subject_id in sorted(still_named(settings.home, store, jobs)):
        jobs.abandon(subject_id)
        try:
            trained = delete_versions(store, jobs, subject_id)
        except DamagedAliasesError as error:
            warn(errors(), f"A version that was trained on an erased person stays unused: {error}")
        else:
            deleted |= {f"{one.model}/{one.version}" for one in trained}
        erase_jobs(jobs, subject_id)
        with writing(engine) as session:
            enrollments = delete_traces(session, subject_id, _now())
        _remove(engine, files, enrollments)
    if deleted:
        names = ", ".join(sorted(deleted))
        warn(notes(), f"Versions that were trained on erased people are deleted again: {names}.")
    try:
        provenance.require_readable(store)
    except Unavailable as error:
        warn(errors(), f"{error.detail} It is not used if it was trained on an erased person.")


def _remove(engine: Engine, files: JobFiles, ids: Collection[str]) -> None:
    """Remove enrollments; the service removes those whose files stay on the disk."""
    removed = [job_id for job_id in ids if files.remove(job_id)]
    with writing(engine) as session:
        delete_jobs(session, removed)


def drop_deleted_datasets(settings: Settings, lost: Collection[str] | None) -> None:
    """Delete the rows of datasets that were deleted while the backup was taken.

    Those are all without a folder but the lost ones.

    Args:
        lost: Those whose folders were missing then; None if unknown, and nothing is deleted.

    Raises:
        Unavailable: The database does not answer.
    """
    if lost is None:
        return
    library, engine = DatasetStore.of(settings), open_engine(settings.database)
    try:
        rows = DatasetRows(engine, _now)
        for dataset_id in rows.revisions().keys() - set(lost):
            if not library.exists(dataset_id):
                rows.delete(dataset_id)
    finally:
        engine.dispose()


def _now() -> datetime:
    return datetime.now(UTC)
