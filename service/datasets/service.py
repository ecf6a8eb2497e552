"""Datasets of one installation: the folders that hold them, and the rows that find them.

The folder is placed first and makes the dataset; the row follows. If the row cannot be written,
the folder goes again; if the process dies in between, the next `reconcile` writes it.
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
from database.datasets import DatasetRows as Rows
from database.idempotency import IdempotencyKey
from models.datasets.admission import Told
from models.datasets.dataset import Split
from models.datasets.library import Library, NewPicture
from models.datasets.splitting import Fractions

log = structlog.get_logger()

_AT_ONCE = 4  # uploads; each may hold a picture of the largest size in memory, and a thread
_EACH = _AT_ONCE // 2  # uploads of one caller: a slow one leaves room for others


def _unused(_dataset_id: str) -> bool:
    return False


class Datasets:
    """Makes, shows and removes datasets. All methods block; call them from a thread.

    Args:
        library: The folders.
        rows: The tables.
        in_use: Whether something that is under way, such as a training, needs a dataset.
    """

    def __init__(
        self, library: Library, rows: Rows, in_use: Callable[[str], bool] = _unused
    ) -> None:
        self.library = library
        self.rows = rows
        self._in_use = in_use
        self._room = threading.Lock()
        self._uploads: Counter[str] = Counter()  # by caller
        self._closed = threading.Event()

    @contextmanager
    def place(self, payer: str) -> Iterator[None]:
        """One of the few places for an upload.

        Args:
            payer: Who takes it; nobody has all.

        Raises:
            QueueFull: All are taken, or all that one may have.
        """
        with self._room:
            if self._uploads.total() >= _AT_ONCE:
                raise QueueFull(
                    f"{_AT_ONCE} datasets are being taken in already. Retry soon.", retry_after=10
                )
            if self._uploads[payer] >= _EACH:
                raise QueueFull(
                    f"{_EACH} of your datasets are being taken in already. Retry soon.",
                    retry_after=10,
                )
            self._uploads[payer] += 1
        try:
            yield
        finally:
            with self._room:
                self._uploads[payer] -= 1
                if not self._uploads[payer]:
                    del self._uploads[payer]

    def close(self) -> None:
        """Let admissions that are under way end at their next file."""
        self._closed.set()

    def reconcile(self) -> None:
        """Remove what killed processes left, and let the rows say what the folders hold."""
        self.library.sweep()
        known, there = self.rows.revisions(), set(self.library.ids())
        for dataset_id in there:
            try:
                listing = self.library.listing(dataset_id)
                if known.get(dataset_id, 0) < listing.info.revision:
                    self.rows.put(listing)
            except DatasetNotFound as error:
                log.warning("dataset_damaged", dataset=dataset_id, error=error.detail)
        for dataset_id in known.keys() - there:
            # Looked at once more: it may have been made or deleted since.
            if dataset_id not in self.library.ids():
                log.warning("dataset_gone", dataset=dataset_id)
                self._forget(dataset_id)

    def create(
        self,
        name: str,
        source: Path | None,
        fractions: Fractions,
        *,
        told: Told,
        asked: IdempotencyKey | None = None,
    ) -> dict[str, Any]:
        """Admit an archive or a folder, or begin an empty dataset.

        Returns:
            A `DatasetInfo` as JSON: the first answer where `asked` was asked before.

        Raises:
            OpsinError: See `Library.create`. Nothing is kept.
        """
        if asked and (earlier := self.rows.answered(asked)):
            return earlier.body

        def still_open(done: int, path: str) -> None:
            if self._closed.is_set():
                raise Draining("The service is shutting down. Send it again.", retry_after=5)
            told(done, path)

        listing = self.library.create(name, source, fractions, told=still_open)
        return self._recorded(listing, asked)

    def _recorded(self, listing: Listing, asked: IdempotencyKey | None) -> dict[str, Any]:
        try:
            earlier = self.rows.put(listing, asked=asked)
        except BaseException:
            self.library.delete(listing.info.id)
            raise
        if earlier is not None:
            self.library.delete(listing.info.id)
            return earlier.body
        return listing.info.model_dump(mode="json")

    def add(
        self,
        dataset_id: str,
        pictures: Sequence[NewPicture],
        label: str,
        split: Split | None,
        *,
        asked: IdempotencyKey | None = None,
    ) -> dict[str, Any]:
        """Add pictures to a class, and say what became of each.

        Returns:
            ``{"dataset", "files"}`` as JSON: the first answer where `asked` was asked before.

        Raises:
            OpsinError: See `Library.add`.
            Conflict: The dataset is in use.
        """
        if asked and (earlier := self.rows.answered(asked)):
            return earlier.body
        listing, added = self.library.add(
            dataset_id, pictures, label, split, check=partial(self._require_unused, dataset_id)
        )
        body = {
            "dataset": listing.info.model_dump(mode="json"),
            "files": [one.model_dump(mode="json") for one in added],
        }
        earlier = self.rows.put(listing, asked=asked, answer=body)
        return body if earlier is None else earlier.body

    def delete(self, dataset_id: str) -> None:
        """Remove a dataset for good.

        Raises:
            DatasetNotFound: There is none of that id.
            Conflict: It is in use.
        """
        self.library.delete(dataset_id, check=partial(self._require_unused, dataset_id))
        self._forget(dataset_id)

    def thumbnail(self, dataset_id: str, file_id: str) -> bytes:
        """A small JPEG of an admitted file.

        Raises:
            DatasetNotFound: There is no such dataset.
            NotFound: It has no such file, or the file was left out.
        """
        file = self.rows.file(dataset_id, file_id)
        if file.status != "admitted" or file.sha256 is None:
            raise NotFound("The file was left out of the dataset, so there is no picture of it.")
        return self.library.thumbnail(dataset_id, file.sha256)

    def _require_unused(self, dataset_id: str) -> None:
        if self._in_use(dataset_id):
            raise Conflict("A training uses the dataset. Wait for it, or cancel it first.")

    def _forget(self, dataset_id: str) -> None:
        try:
            self.rows.delete(dataset_id)
        except DatasetNotFound:
            return
        except OpsinError as error:
            # The folder is gone, which is what counts; the next `reconcile` takes the row.
            log.warning("dataset_row_left", dataset=dataset_id, error=error.code)
