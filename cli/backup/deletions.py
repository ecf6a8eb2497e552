"""Repeats after a restore the erasures and deletions that the backup's database does not know."""

from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime

from contracts.errors import SubjectNotFound
from contracts.settings import Settings
from database.datasets import DatasetRows
from database.engine import open_engine
from database.faces.face_files import FaceFiles
from database.faces.privacy.erased_ids import erased_ids
from database.faces.privacy.erasures import Erasures
from database.faces.subjects import erase
from database.jobs.files import JobFiles
from models.datasets.store import DatasetStore


def repeat_erasures(settings: Settings, meanwhile: Collection[str]) -> int:
    """Erase the subjects of the list that the restored database holds; returns how many.

    The audit log records each. The service, once started, deletes the versions that were trained
    on them and ends these erasures as it does any unfinished one.

    Args:
        meanwhile: The ids of more subjects, which were erased while the backup was taken.

    Raises:
        Unavailable: The database does not answer.
        OSError: The list cannot be read.
    """
    files, job_files = FaceFiles(settings.faces_home), JobFiles.of(settings)
    engine, count = open_engine(settings.database), 0
    try:
        existing = Erasures(engine, _now).existing_among({*erased_ids(settings.home), *meanwhile})
        for subject_id in existing:
            with suppress(SubjectNotFound):
                for job_id in erase(engine, files, subject_id, _now()).jobs:
                    job_files.remove(job_id)
                count += 1
    finally:
        engine.dispose()
    return count


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
