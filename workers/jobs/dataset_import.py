"""A dataset taken in by a job, and made known to the database. Imports no TensorFlow."""

from datetime import UTC, datetime
from typing import Any

from contracts.settings import Settings
from contracts.work import Work
from database.datasets import DatasetRows
from database.engine import open_engine
from models.datasets import import_job
from models.datasets.library import Library


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """As `models.datasets.import_job.run`, and then the rows.

    Killed between the two, the next attempt finds the folder and writes the rows.

    Raises:
        Unavailable: The database does not answer, or the disk is full.
    """
    made = import_job.run(work, settings)
    engine = open_engine(settings.database)
    try:
        rows = DatasetRows(engine, lambda: datetime.now(UTC))
        rows.put(Library.of(settings).listing(made["id"]))
    finally:
        engine.dispose()
    return made
