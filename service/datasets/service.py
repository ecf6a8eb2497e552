"""The datasets of one installation: a folder of images and database rows for each.

The folder is the truth. A new one is placed first; the row follows. If the row cannot be written,
the folder is removed. If it may have been written all the same, or if the process dies in between,
the folder stays: the next `reconcile`, or a repetition of the request, writes the row. A change of
a dataset is published within the transaction that writes its rows, after everything that may fail;
if the process dies in between, the next change or `reconcile` writes the rows.

A missing folder alone is no reason to delete a row: the disk may not be mounted. A deletion hides
the row first, and `reconcile` deletes only the rows of hidden datasets.
"""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from contracts.errors import (
    Conflict,
    DatasetNotFound,
    DiskUnusable,
    Draining,
    NotFound,
    OpsinError,
    QueueFull,
    Unavailable,
)
from contracts.metrics.registry import Metrics
from contracts.training.datasets import DatasetFile, DatasetInfo, LastAnswer, Listing
from database.datasets import HIDDEN, DatasetRows
from database.idempotency import IdempotencyKey
from database.installation import require_mounted
from models.datasets.addition import NewImages
from models.datasets.admission import ImportProgress
from models.datasets.archives.members import Member
from models.datasets.archives.name_encoding import UNNAMED, Naming
from models.datasets.report import refusals
from models.datasets.splitting import Fractions
from models.datasets.store import DatasetStore
from models.images.gate import Gate, at_once
from models.locks import LOCK_SECONDS, LockHeldError

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
        metrics: Count the files of new datasets and the images added to them.
    """

    def __init__(
        self,
        store: DatasetStore,
        rows: DatasetRows,
        in_use: Callable[[str], bool] = _unused,
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics or Metrics()
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
        """Remove leftovers of killed processes, and write the rows that are older than the folders.

        Only the beginning of each listing is read, unless its rows have to be written. The rows of
        a dataset whose deletion was interrupted are deleted.
        """
        self.store.sweep()
        known, present = self.rows.revisions(), set(self.store.ids())
        for dataset_id in present:
            try:
                if known.get(dataset_id, 0) < self.store.revision(dataset_id):
                    with self.store.lock(dataset_id, timeout=0):
                        self._write_missing_rows(dataset_id)
            except LockHeldError:
                continue  # its rows are being written
            except (OpsinError, OSError) as error:
                log.warning("dataset_damaged", dataset=dataset_id, error=str(error))
        # Checked again: they may have been created or deleted since.
        gone = [one for one in known.keys() - present if not self.store.exists(one)]
        for dataset_id in gone:
            if known[dataset_id] == HIDDEN:
                self._delete_row(dataset_id)
        if lost := [one for one in gone if known[one] != HIDDEN]:
            log.error("dataset_folders_missing", count=len(lost), datasets=lost[:10])

    def _write_missing_rows(self, dataset_id: str) -> None:
        """Write the rows that are older than the folder, which is locked."""
        revision = self.store.revision(dataset_id)
        self.rows.repair(dataset_id, revision, lambda: self.store.own_listing(dataset_id))

    def create(
        self,
        name: str,
        source: Path | Iterable[Member] | None,
        fractions: Fractions,
        *,
        progress: ImportProgress,
        idempotency: IdempotencyKey | None = None,
        naming: Naming = UNNAMED,
    ) -> dict[str, Any]:
        """Create a dataset from an archive or a folder, or an empty one.

        Returns:
            A `DatasetInfo` as JSON; for a repeated request, the first response.

        Raises:
            OpsinError: As `DatasetStore.create`. Nothing is stored, unless the database was lost.
            DiskUnusable: The data home is not mounted.
        """
        require_mounted(self.store.home)
        dataset_id = None
        if idempotency:
            dataset_id, earlier = self._free_id(idempotency)
            if earlier is not None:
                return earlier

        def check(done: int, path: str) -> None:
            if self._closed.is_set():
                raise Draining("The service is shutting down. Send it again.", retry_after=5)
            progress(done, path)

        try:
            listing = self.store.create(
                name,
                source,
                fractions,
                progress=check,
                naming=naming,
                dataset_id=dataset_id,
                answer=partial(_answer, idempotency) if idempotency else None,
            )
        except Conflict:
            if idempotency and (earlier := self._earlier(idempotency)):
                return earlier
            raise
        return self._record(listing, idempotency)

    def _earlier(self, idempotency: IdempotencyKey) -> dict[str, Any] | None:
        """The response to an earlier request with that key, even if its process was killed."""
        dataset_id = _id_for(idempotency)
        # There may be none, or it may just have been deleted.
        with suppress(DatasetNotFound), self.store.lock(dataset_id):
            self._write_missing_rows(dataset_id)
        earlier = self.rows.stored_response(idempotency)
        return None if earlier is None else earlier.body

    def _free_id(self, idempotency: IdempotencyKey) -> tuple[str | None, dict[str, Any] | None]:
        """The id for that key, None if it is taken, which a key may be after a day.

        And the response to an earlier request, if there is one. It is looked for again if the
        dataset appears meanwhile: a simultaneous request with the key is making it.
        """
        dataset_id = _id_for(idempotency)
        was_there = self.store.exists(dataset_id)
        earlier = self._earlier(idempotency)
        if earlier is None and not was_there and self.store.exists(dataset_id):
            was_there, earlier = True, self._earlier(idempotency)
        return None if was_there else dataset_id, earlier

    def _record(self, listing: Listing, idempotency: IdempotencyKey | None) -> dict[str, Any]:
        dataset_id = listing.info.id
        try:
            with self.store.lock(dataset_id):
                earlier = self.rows.put(listing, idempotency=idempotency)
        except BaseException as error:
            if not (isinstance(error, OpsinError) and error.is_outcome_unknown):
                self._take_back(dataset_id, idempotency)
            raise
        if earlier is None:
            self._count(listing.files)
            return listing.info.model_dump(mode="json")
        # Another request may have found this dataset, and kept its response, before us.
        if earlier.body.get("id") != dataset_id:
            self.store.delete(dataset_id, check=partial(self.rows.hide, dataset_id))
            self._delete_row(dataset_id)
        return earlier.body

    def _take_back(self, dataset_id: str, idempotency: IdempotencyKey | None) -> None:
        """Remove a dataset whose rows the request that made it could not write.

        It stays if another request with the key has written them, and answered, or if that cannot
        be told.
        """

        def check() -> None:
            try:
                if self.rows.revision(dataset_id) > HIDDEN:
                    raise Conflict("Another process has written its rows.")
            except Unavailable:
                if idempotency:
                    raise
            with suppress(Unavailable):  # a full disk, on which its folder must not stay
                self.rows.hide(dataset_id)

        with suppress(OpsinError, OSError):
            self.store.delete(dataset_id, check=check)

    def add(
        self,
        dataset_id: str,
        new: NewImages,
        *,
        idempotency: IdempotencyKey | None = None,
        check: Callable[[], None] = lambda: None,
        timeout: float = LOCK_SECONDS,
    ) -> dict[str, Any]:
        """Add images to a class; the result says what happened to each.

        Args:
            check: Called before the addition takes effect; may raise to prevent it.
            timeout: As for `delete`.

        Returns:
            ``{"dataset", "files"}`` as JSON; for a repeated request, the first response.

        Raises:
            OpsinError: As `DatasetStore.addition`. Nothing is stored.
            Conflict: The dataset is in use.
            LockHeldError: As `delete`.
            DiskUnusable: The data home is not mounted.
        """
        require_mounted(self.store.home)
        with self.store.lock(dataset_id, timeout=timeout):
            self._require_unused(dataset_id)
            self._write_missing_rows(dataset_id)
            # Under the lock: two requests with one key never both get past this line.
            if idempotency and (earlier := self.rows.stored_response(idempotency)):
                return earlier.body
            with self.store.addition(dataset_id, new) as addition:
                body = {
                    "dataset": addition.info.model_dump(mode="json"),
                    "files": [file.model_dump(mode="json") for file in addition.files],
                }
                now = datetime.now(UTC)
                addition.stage(idempotency.answer(body, now) if idempotency else None)
                check()
                self.rows.change(
                    addition.info,
                    addition.before,
                    addition.changed,
                    addition.publish,
                    idempotency=idempotency,
                    body=body,
                )
            self._count(addition.files)
        return body

    def _count(self, files: Iterable[DatasetFile]) -> None:
        for reason, number in refusals(files).items():
            self._metrics.inc("dataset_files_total", reason, by=number)

    def delete(self, dataset_id: str, *, timeout: float = LOCK_SECONDS) -> None:
        """Remove a dataset permanently.

        Raises:
            DatasetNotFound: There is no such dataset.
            Conflict: It is in use.
            LockHeldError: Another change of it took longer than `timeout` seconds.
            Unavailable: The database does not answer.
            DiskUnusable: The folder cannot be deleted, or is missing with the whole home.
        """

        def check() -> None:
            self._require_unused(dataset_id)
            self.rows.hide(dataset_id)

        try:
            self.store.delete(dataset_id, check=check, timeout=timeout)
        except DatasetNotFound:
            self._delete_lost(dataset_id)
        except OSError as error:
            self._show_again(dataset_id)
            log.warning("dataset_not_deleted", dataset=dataset_id, error=str(error))
            raise DiskUnusable(
                "The dataset's folder cannot be deleted from the disk. Retry later.",
                retry_after=60,
            ) from error
        else:
            self._delete_row(dataset_id)

    def _delete_lost(self, dataset_id: str) -> None:
        """Delete the rows of a dataset whose folder is missing."""
        self.rows.require(dataset_id)
        require_mounted(self.store.home)
        self._require_unused(dataset_id)
        self.rows.delete(dataset_id)

    def _show_again(self, dataset_id: str) -> None:
        """Undo the hiding of a dataset whose folder is still there; otherwise `reconcile` does."""
        with suppress(OpsinError, OSError), self.store.lock(dataset_id):
            self._write_missing_rows(dataset_id)

    def thumbnail(self, dataset_id: str, file_id: str, large: Gate = at_once) -> bytes:
        """A small JPEG of an image; `large` as for `models.images.decode`.

        Raises:
            DatasetNotFound: There is no such dataset.
            NotFound: It has no such file, or the file is no readable image, or was not kept.
        """
        file = self.rows.file(dataset_id, file_id)
        if file.sha256 is None:
            raise NotFound("The file is not a readable image, so it has no thumbnail.")
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


def _id_for(idempotency: IdempotencyKey) -> str:
    """The id of the dataset that a request makes, so that its repetition finds it."""
    content = json.dumps([idempotency.scope, idempotency.key, idempotency.digest])
    return f"ds_{hashlib.sha256(content.encode()).hexdigest()[:24]}"


def _answer(idempotency: IdempotencyKey, info: DatasetInfo) -> LastAnswer:
    return idempotency.answer(info.model_dump(mode="json"), datetime.now(UTC))
