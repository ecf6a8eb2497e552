"""A dataset taken in by a worker: what `POST /v1/datasets` does, for uploads that take long.

The upload lies in the job's folder as `archive` or, on one machine, wherever `source` says. The
id comes from the job's, so a second attempt finds what a lost first one has already placed.
"""

import hashlib
import time
from pathlib import Path
from typing import Any

from contracts.errors import DatasetNotFound
from contracts.jobs import Progress
from contracts.settings import Settings
from contracts.work import Work
from models.datasets.library import DEFAULT, Library
from models.datasets.splitting import Fractions

ARCHIVE = "archive"
_EVERY_SECONDS = 0.5


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """Take an upload in.

    Args:
        work: Its request is ``{"name", "validation", "test", "seed", "source"}``, all but the
            name optional.
        settings: Where datasets are kept, and how large they may be.

    Returns:
        The `DatasetInfo` as JSON. Whoever runs the job puts the listing of that id into the
        database (`database.datasets.DatasetRows.put`).

    Raises:
        InvalidArchive: It is damaged, dishonest or too much. Nothing of it is kept.
        Unavailable: The disk is full.
        WorkStoppedError: The job was cancelled. Nothing is kept.
    """
    library = Library.of(settings)
    dataset_id = dataset_id_of(work.job_id)
    try:
        return library.listing(dataset_id).info.model_dump(mode="json")
    except DatasetNotFound:
        library.sweep()  # what a lost attempt left
    asked = work.request
    fractions = Fractions(
        asked.get("validation", DEFAULT.validation),
        asked.get("test", DEFAULT.test),
        asked.get("seed", DEFAULT.seed),
    )
    source = Path(asked["source"]) if asked.get("source") else work.folder / ARCHIVE
    listing = library.create(
        asked["name"], source, fractions, told=_Telling(work), dataset_id=dataset_id
    )
    return listing.info.model_dump(mode="json")


def dataset_id_of(job_id: str) -> str:
    """The id of the dataset that a job makes."""
    return f"ds_{hashlib.sha256(job_id.encode()).hexdigest()[:24]}"


class _Telling:
    """Tells the job of the files now and then, and asks at each whether to go on.

    How many files there are is known only at the end, so the fraction approaches 1.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._next = time.monotonic()

    def __call__(self, done: int, _path: str) -> None:
        self._work.check()
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY_SECONDS
            fraction = done / (done + 1000)
            self._work.progress(Progress(fraction=fraction, phase="admission", step=done))
