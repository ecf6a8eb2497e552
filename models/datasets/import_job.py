"""The dataset import job: `POST /v1/datasets` for uploads that take long.

The upload is the file `archive` in the job's folder or, on a single machine, any path named by
`source`. The dataset id is derived from the job's, so a second attempt finds what a lost first
attempt has already published.
"""

import hashlib
import time
from pathlib import Path
from typing import Any

from contracts.errors import DatasetNotFound
from contracts.jobs import Progress
from contracts.settings import Settings
from contracts.work import Work
from models.datasets.archives.name_encoding import Naming
from models.datasets.splitting import Fractions
from models.datasets.store import DEFAULT_FRACTIONS, DatasetStore

ARCHIVE = "archive"
_REPORT_SECONDS = 0.5


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """Import an upload as a dataset.

    Args:
        work: Its request is ``{"name", "validation", "test", "seed", "source",
            "name_encoding", "labels_from"}``; all but the name are optional.

    Returns:
        The `DatasetInfo` as JSON. The caller has to write the listing of that id to the database
        (`database.datasets.DatasetRows.put`).

    Raises:
        InvalidArchive: The archive is damaged, malicious or too large. Nothing is stored.
        Unavailable: The disk is full.
        WorkStoppedError: The job was cancelled. Nothing is stored.
    """
    store = DatasetStore.of(settings)
    dataset_id = dataset_id_of(work.job_id)
    try:
        return store.listing(dataset_id).info.model_dump(mode="json")
    except DatasetNotFound:
        store.sweep()  # remove what a lost attempt left behind
    request = work.request
    fractions = Fractions(
        request.get("validation", DEFAULT_FRACTIONS.validation),
        request.get("test", DEFAULT_FRACTIONS.test),
        request.get("seed", DEFAULT_FRACTIONS.seed),
    )
    source = Path(request["source"]) if request.get("source") else work.folder / ARCHIVE
    listing = store.create(
        request["name"],
        source,
        fractions,
        progress=_JobProgress(work),
        dataset_id=dataset_id,
        naming=Naming(request.get("name_encoding"), request.get("labels_from", "folders")),
    )
    return listing.info.model_dump(mode="json")


def dataset_id_of(job_id: str) -> str:
    """The id of the dataset that a job creates."""
    return f"ds_{hashlib.sha256(job_id.encode()).hexdigest()[:24]}"


class _JobProgress:
    """Checks before each file whether the job goes on, and reports progress now and then.

    The number of files is known only at the end, so the fraction approaches 1.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._next_report = time.monotonic()

    def __call__(self, done: int, _path: str) -> None:
        self._work.check()
        if time.monotonic() >= self._next_report:
            self._next_report = time.monotonic() + _REPORT_SECONDS
            fraction = done / (done + 1000)
            self._work.progress(Progress(fraction=fraction, phase="admission", step=done))
