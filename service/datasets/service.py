"""The datasets of one installation: a folder of images and database rows for each.

The folder is the truth. It is placed first; the row follows. If the row cannot be written, the
folder is removed; if the process dies in between, the next `reconcile` writes the row.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from contracts.errors import Conflict, DatasetNotFound, Draining, NotFound, OpsinError, QueueFull
from contracts.training.datasets import Listing
from database.datasets import DatasetRows
from database.idempotency import IdempotencyKey
from models.datasets.admission import ImportProgress
from models.datasets.dataset import Split
from models.datasets.splitting import Fractions
from models.datasets.store import DatasetStore, NewImage
from models.images.gate import Gate, at_once
from models.locks import LOCK_SECONDS

log = structlog.get_logger()

_MAX_UPLOADS = 4  # at a time; each may hold a thread and, in memory, an image of the largest size
_MAX_UPLOADS_PER_CLIENT = _MAX_UPLOADS // 2  # leaves room for others beside a slow client


def _unused(_dataset_id: str) -> bool:
    return False


class Datasets:
    """Creates, reads and removes datasets. All methods block; call them from a thread.

    Args:
        store: The folders.
        rows: The tables.
        in_use: Whether an unfinished job, such as a training, needs a dataset.
    """

    def __init__(
        self, store: DatasetStore, rows: DatasetRows, in_use: Callable[[str], bool] = _unused
    ) -> None:
        self.store = store
        self.rows = rows
        self._in_use = in_use
        self._upload_lock = threading.Lock()
        self._uploads: Counter[str] = Counter()  # by quota key
        self._closed = threading.Event()

    @contextmanager
    def upload_slot(self, quota_key: str) -> Iterator[None]:
        """One of the few slots for an upload; one client cannot take all of them.

        Raises:
            QueueFull: All slots are taken, or all that one client may have.
        """
        with self._upload_lock:
            if self._uploads.total() >= _MAX_UPLOADS:
                raise QueueFull(
                    f"{_MAX_UPLOADS} datasets are being uploaded already. Retry soon.",
                    retry_after=10,
                )
            if self._uploads[quota_key] >= _MAX_UPLOADS_PER_CLIENT:
                raise QueueFull(
                    f"{_MAX_UPLOADS_PER_CLIENT} of your datasets are being uploaded already. "
                    "Retry soon.",
                    retry_after=10,
                )
            self._uploads[quota_key] += 1
        try:
            yield
        finally:
            with self._upload_lock:
                self._uploads[quota_key] -= 1
                if not self._uploads[quota_key]:
                    del self._uploads[quota_key]

    def close(self) -> None:
        """End running admissions at their next file."""
        self._closed.set()

    def reconcile(self) -> None:
        """Remove leftovers of killed processes and make the rows match the folders."""
        self.store.sweep()
        known, present = self.rows.revisions(), set(self.store.ids())
        for dataset_id in present:
            try:
                listing = self.store.listing(dataset_id)
                if known.get(dataset_id, 0) < listing.info.revision:
                    self.rows.put(listing)
            except (OpsinError, OSError) as error:
                log.warning("dataset_damaged", dataset=dataset_id, error=str(error))
        for dataset_id in known.keys() - present:
            # Checked again: it may have been created or deleted since.
            if dataset_id not in self.store.ids():
                log.warning("dataset_gone", dataset=dataset_id)
                self._delete_row(dataset_id)

    def create(
        self,
        name: str,
        source: Path | None,
        fractions: Fractions,
        *,
        progress: ImportProgress,
        idempotency: IdempotencyKey | None = None,
    ) -> dict[str, Any]:
        """Create a dataset from an archive or a folder, or an empty one.

        Returns:
            A `DatasetInfo` as JSON; for a repeated request, the first response.

        Raises:
            OpsinError: As `DatasetStore.create`. Nothing is stored.
        """
        if idempotency and (earlier := self.rows.stored_response(idempotency)):
            return earlier.body

        def check(done: int, path: str) -> None:
            if self._closed.is_set():
                raise Draining("The service is shutting down. Send it again.", retry_after=5)
            progress(done, path)

        listing = self.store.create(name, source, fractions, progress=check)
        return self._record(listing, idempotency)

    def _record(self, listing: Listing, idempotency: IdempotencyKey | None) -> dict[str, Any]:
        try:
            earlier = self.rows.put(listing, idempotency=idempotency)
        except BaseException:
            self.store.delete(listing.info.id)
            raise
        if earlier is not None:
            self.store.delete(listing.info.id)
            return earlier.body
        return listing.info.model_dump(mode="json")

    def add(
        self,
        dataset_id: str,
        images: Sequence[NewImage],
        label: str,
        split: Split | None,
        *,
        idempotency: IdempotencyKey | None = None,
    ) -> dict[str, Any]:
        """Add images to a class; the result says what happened to each.

        Returns:
            ``{"dataset", "files"}`` as JSON; for a repeated request, the first response.

        Raises:
            OpsinError: As `DatasetStore.add`.
            Conflict: The dataset is in use.
        """
        if idempotency and (earlier := self.rows.stored_response(idempotency)):
            return earlier.body
        listing, added = self.store.add(
            dataset_id, images, label, split, check=partial(self._require_unused, dataset_id)
        )
        body = {
            "dataset": listing.info.model_dump(mode="json"),
            "files": [file.model_dump(mode="json") for file in added],
        }
        earlier = self.rows.put(listing, idempotency=idempotency, body=body)
        return body if earlier is None else earlier.body

    def delete(self, dataset_id: str, *, timeout: float = LOCK_SECONDS) -> None:
        """Remove a dataset permanently.

        Raises:
            DatasetNotFound: There is no such dataset.
            Conflict: It is in use.
            LockHeldError: Another change of it took longer than `timeout` seconds.
        """
        check = partial(self._require_unused, dataset_id)
        self.store.delete(dataset_id, check=check, timeout=timeout)
        self._delete_row(dataset_id)

    def thumbnail(self, dataset_id: str, file_id: str, large: Gate = at_once) -> bytes:
        """A small JPEG of an admitted file; `large` as for `models.images.decode`.

        Raises:
            DatasetNotFound: There is no such dataset.
            NotFound: It has no such file, or the file was left out.
        """
        file = self.rows.file(dataset_id, file_id)
        if file.status != "admitted" or file.sha256 is None:
            raise NotFound("The file was left out of the dataset, so it has no thumbnail.")
        return self.store.thumbnail(dataset_id, file.sha256, large)

    def _require_unused(self, dataset_id: str) -> None:
        if self._in_use(dataset_id):
            raise Conflict("A training uses the dataset. Wait for it or cancel it first.")

    def _delete_row(self, dataset_id: str) -> None:
        try:
            self.rows.delete(dataset_id)
        except DatasetNotFound:
            return
        except OpsinError as error:
            # The folder is gone, which is what matters; the next `reconcile` removes the row.
            log.warning("dataset_row_left", dataset=dataset_id, error=error.code)
