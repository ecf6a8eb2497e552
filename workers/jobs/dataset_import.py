"""The dataset import job: imports an upload and writes its rows to the database."""

from datetime import UTC, datetime
from typing import Any

from contracts.settings import Settings
from contracts.work import Work
from database.datasets import DatasetRows
from database.engine import open_engine
from models.datasets import import_job
from models.datasets.report import refusals
from models.datasets.store import DatasetStore
from workers.jobs.context import LeasedWork


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """Run `models.datasets.import_job.run`, then write the rows.

    If the process is killed between the two, the next attempt finds the dataset and writes the
    rows.

    Raises:
        Unavailable: The database does not answer, or the disk is full.
    """
    info = import_job.run(work, settings)
    engine = open_engine(settings.database)
    try:
        rows = DatasetRows(engine, lambda: datetime.now(UTC))
        store = DatasetStore.of(settings)
        with store.lock(info["id"]):
            listing = store.listing(info["id"])
            rows.put(listing)
    finally:
        engine.dispose()
    if isinstance(work, LeasedWork):
        for reason, number in refusals(listing.files).items():
            work.counts.inc("dataset_files_total", reason, by=number)
    return info
