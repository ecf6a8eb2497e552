"""Repeats after a restore the erasures that the backup does not know."""

from contextlib import suppress
from datetime import UTC, datetime

from sqlalchemy.exc import SQLAlchemyError

from contracts.errors import SubjectNotFound
from contracts.settings import Settings
from database.engine import open_engine
from database.faces.face_files import FaceFiles
from database.faces.privacy.erased_ids import add_erased, erased_ids
from database.faces.privacy.erasures import Erasures
from database.faces.subjects import erase
from database.jobs.files import JobFiles
from database.migrations import current


def note_erasures(settings: Settings) -> None:
    """List the erasures of the database that is about to be replaced.

    Those of this release are listed already; an earlier one recorded them in the database only.

    Raises:
        Unavailable: The database does not answer, or the list cannot be written.
    """
    if current(settings.database) is None:
        return
    engine = open_engine(settings.database)
    try:
        with suppress(SQLAlchemyError):  # tables of a release without faces
            add_erased(settings.home, Erasures(engine, _now).all_ids())
    finally:
        engine.dispose()


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
