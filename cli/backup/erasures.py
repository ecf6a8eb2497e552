"""Repeats after a restore the erasures that the backup does not know."""

from contextlib import suppress
from datetime import UTC, datetime

from contracts.errors import SubjectNotFound
from contracts.settings import Settings
from database.engine import open_engine
from database.faces.face_files import FaceFiles
from database.faces.privacy.erased_ids import erased_ids
from database.faces.privacy.erasures import Erasures
from database.faces.subjects import erase
from database.jobs.files import JobFiles


def repeat_erasures(settings: Settings) -> int:
    """Erase the subjects of the list that the restored database holds; returns how many.

    The audit log records each. The service, once started, deletes the versions that were trained
    on them and ends these erasures as it does any unfinished one.

    Raises:
        Unavailable: The database does not answer.
        OSError: The list cannot be read.
    """
    files, job_files = FaceFiles(settings.faces_home), JobFiles.of(settings)
    engine, count = open_engine(settings.database), 0
    try:
        existing = Erasures(engine, _now).existing_among(erased_ids(settings.home))
        for subject_id in existing:
            with suppress(SubjectNotFound):
                for job_id in erase(engine, files, subject_id, _now()).jobs:
                    job_files.remove(job_id)
                count += 1
    finally:
        engine.dispose()
    return count


def _now() -> datetime:
    return datetime.now(UTC)
