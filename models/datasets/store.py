"""All datasets on the disk: `$OPSIN_HOME/datasets/{id}/` with `listing.json` and the images.

A dataset is assembled in a staging folder and published by one rename, so it exists completely or
not at all. What a killed process leaves in staging is removed by the next sweep. The database only
repeats the listings, so that they can be searched.
"""

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from contracts.errors import (
    Conflict,
    DatasetNotFound,
    ImageTooLarge,
    InvalidImage,
    NotTrainable,
    PayloadTooLarge,
)
from contracts.settings import Settings
from contracts.training.datasets import DATASET_ID, DatasetFile, Listing
from models.datasets.admission import FILES, FileAdmission, ImportProgress, content_path
from models.datasets.archives.formats import read_source
from models.datasets.archives.limits import Limits
from models.datasets.dataset import Dataset, Split
from models.datasets.labeling import assign_labels, remove_duplicates
from models.datasets.listing import LISTING, load_folder, read_listing, write_listing
from models.datasets.report import report
from models.datasets.splitting import Fractions, split_files
from models.datasets.thumbnails import thumbnail
from models.images.gate import Gate, at_once
from models.locks import LOCK_SECONDS, locked
from models.store.hardlinks import link_tree
from models.store.staging import Staging, flush_entries

DEFAULT_FRACTIONS = Fractions(0.15, 0.15, 0)


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image to add: its file name and its content."""

    name: str
    data: bytes


class DatasetStore:
    """The datasets below the folder `root`, each bounded by `limits`."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self._root = root
        self._limits = limits
        self._staging = Staging(root / ".staging")

    @classmethod
    def of(cls, settings: Settings, large_image: Gate = at_once) -> "DatasetStore":
        """The datasets of this installation."""
        return cls(settings.datasets_home, Limits.of(settings, large_image))

    @property
    def limits(self) -> Limits:
        """The limits of each dataset."""
        return self._limits

    def ids(self) -> list[str]:
        """The ids of all datasets, sorted."""
        return sorted(path.parent.name for path in self._root.glob(f"ds_*/{LISTING}"))

    def sweep(self) -> list[str]:
        """Remove what killed processes left behind; return its names."""
        return self._staging.sweep()

    def staging(self) -> AbstractContextManager[Path]:
        """A folder for an upload; it is removed when the block ends, or after a crash."""
        return self._staging.folder()

    def create(
        self,
        name: str,
        source: Path | None,
        fractions: Fractions = DEFAULT_FRACTIONS,
        *,
        progress: ImportProgress | None = None,
        dataset_id: str | None = None,
    ) -> Listing:
        """Import an archive or a folder, or create an empty dataset.

        Args:
            source: The archive or the folder; None creates an empty dataset.
            fractions: How to split the images if the upload has no splits.
            dataset_id: From `new_dataset_id`, if it has to be known beforehand.

        Raises:
            InvalidArchive: The archive is damaged, malicious or too large. Nothing is stored.
            Unavailable: The disk is full.
            Conflict: The id is taken.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        with self._staging.folder() as folder:
            files: list[DatasetFile] = []
            if source is not None:
                admission = FileAdmission(folder, self._limits, progress)
                files = assign_labels(admission.admit_all(read_source(source, self._limits)))
            dataset_id = dataset_id or new_dataset_id()
            listing = _make_listing(dataset_id, name, files, fractions, datetime.now(UTC))
            (folder / FILES).mkdir(exist_ok=True)
            _prune(folder, listing)
            write_listing(folder, listing)
            self._publish(folder, dataset_id)
        return listing

    def add(
        self,
        dataset_id: str,
        images: Sequence[NewImage],
        label: str,
        split: Split | None,
        *,
        check: Callable[[], None] | None = None,
    ) -> tuple[Listing, list[DatasetFile]]:
        """Add images to one class.

        Args:
            split: None assigns the split by hash.
            check: Called while the dataset is locked; may raise to prevent the change.

        Returns:
            The new listing, and the result of each image, in order.

        Raises:
            DatasetNotFound: There is no such dataset.
            InvalidImage: There is a single image, and it is not one.
            ImageTooLarge: There is a single image, and it is too large.
            PayloadTooLarge: The dataset would exceed the limits.
            Unavailable: The disk is full.
        """
        with self._locked(dataset_id) as folder:
            if check is not None:
                check()
            old = read_listing(folder)
            self._require_room(folder, old, images)
            added = self._admit(folder, old, images, label, split)
            info = old.info
            listing = _make_listing(
                dataset_id,
                info.name,
                [*old.files, *added],
                Fractions(old.validation, old.test, info.seed),
                info.created_at,
                revision=info.revision + 1,
            )
            write_listing(folder, listing)
            _prune(folder, listing)
        files = {file.id: file for file in listing.files}
        return listing, [files[file.id] for file in added]

    def _require_room(self, folder: Path, old: Listing, images: Sequence[NewImage]) -> None:
        size = sum(len(image.data) for image in images)
        if len(old.files) + len(images) > self._limits.files:
            raise PayloadTooLarge(f"A dataset may have {self._limits.files:,} files.")
        if old.info.size + size > self._limits.total_bytes:
            raise PayloadTooLarge(f"A dataset may have {self._limits.total_bytes:,} bytes.")
        self._limits.require_room(folder, size)

    def _admit(
        self,
        folder: Path,
        old: Listing,
        images: Sequence[NewImage],
        label: str,
        split: Split | None,
    ) -> list[DatasetFile]:
        admission = FileAdmission(folder, self._limits)
        paths = {file.path for file in old.files}
        added: list[DatasetFile] = []
        for image in images:
            path = _free_path(f"{label}/{image.name}", paths)
            paths.add(path)
            file = admission.admit(path, image.data)
            if len(images) == 1 and file.status == "rejected":
                error = ImageTooLarge if file.code == "image_too_large" else InvalidImage
                raise error(file.detail or "")
            added.append(file.model_copy(update={"label": label, "given_split": split}))
        return added

    def listing(self, dataset_id: str) -> Listing:
        """All files of a dataset, and its counts.

        Raises:
            DatasetNotFound: There is no such dataset.
        """
        return read_listing(self._folder(dataset_id))

    def load(self, dataset_id: str) -> Dataset:
        """A dataset as a training sees it.

        Raises:
            DatasetNotFound: There is no such dataset, or it is damaged.
        """
        return load_folder(self._folder(dataset_id))

    def load_trainable(self, dataset_id: str) -> Dataset:
        """A dataset that a training can use.

        Raises:
            DatasetNotFound: As `load`.
            NotTrainable: It has too few classes or images; the message says which.
        """
        info = self.listing(dataset_id).info
        if not info.trainable:
            raise NotTrainable(info.reason or "Nothing can be learned from it.")
        return self.load(dataset_id)

    def image_path(self, dataset_id: str, sha256: str) -> Path:
        """Where the image with that hash is stored.

        Raises:
            DatasetNotFound: There is no such dataset.
        """
        return content_path(self._folder(dataset_id), sha256)

    def thumbnail(self, dataset_id: str, sha256: str, large: Gate = at_once) -> bytes:
        """A small JPEG of the image with that hash; `large` as for `models.images.decode`.

        Raises:
            DatasetNotFound: There is no such dataset, or it no longer has the image.
        """
        folder = self._folder(dataset_id)
        path = content_path(folder, sha256)
        try:
            return thumbnail(folder, path, max_pixels=self._limits.image_pixels, large=large)
        except FileNotFoundError:
            raise DatasetNotFound("The dataset was deleted in the meantime.") from None

    def lock(
        self, dataset_id: str, *, timeout: float = LOCK_SECONDS
    ) -> AbstractContextManager[Path]:
        """Keep a dataset from being changed or deleted while the block runs.

        Raises:
            DatasetNotFound: There is no such dataset.
            LockHeldError: Another process held the lock for `timeout` seconds.
        """
        return self._locked(dataset_id, timeout)

    def delete(
        self,
        dataset_id: str,
        *,
        check: Callable[[], None] | None = None,
        timeout: float = LOCK_SECONDS,
    ) -> None:
        """Delete a dataset.

        Args:
            check: As for `add`.
            timeout: As for `lock`.

        Raises:
            DatasetNotFound: There is no such dataset.
            LockHeldError: As `lock`. Nothing was deleted.
        """
        with self._locked(dataset_id, timeout) as folder, self._staging.folder() as trash:
            if check is not None:
                check()
            folder.rename(trash / "deleted")
        (self._root / ".locks" / f"{dataset_id}.lock").unlink(missing_ok=True)

    def link_into(self, dataset_id: str, target: Path) -> None:
        """Make a snapshot of a dataset that later changes do not affect.

        Args:
            target: A folder on the file system of the store, preferably from `staging`; see
                `models.store.hardlinks`.

        Raises:
            DatasetNotFound: There is no such dataset.
        """
        with self._locked(dataset_id) as folder:
            link_tree(folder, target)

    def _publish(self, folder: Path, dataset_id: str) -> None:
        try:
            folder.rename(self._folder(dataset_id))
        except OSError as error:
            if not self._folder(dataset_id).exists():
                raise
            raise Conflict("There is already a dataset with that id.") from error
        flush_entries(self._root)

    @contextmanager
    def _locked(self, dataset_id: str, timeout: float = LOCK_SECONDS) -> Iterator[Path]:
        """Lock an existing dataset; yield its folder."""
        folder = self._folder(dataset_id)
        if not (folder / LISTING).is_file():
            read_listing(folder)  # raises; no lock file is made for what does not exist
        with locked(self._root / ".locks" / f"{dataset_id}.lock", timeout=timeout):
            read_listing(folder)  # another process may have deleted it in the meantime
            yield folder

    def _folder(self, dataset_id: str) -> Path:
        if not re.fullmatch(DATASET_ID, dataset_id):
            raise DatasetNotFound("There is no dataset with that id. `GET /v1/datasets` lists all.")
        return self._root / dataset_id


def new_dataset_id() -> str:
    """A random id that cannot be guessed."""
    return f"ds_{secrets.token_urlsafe(12)}"


def _make_listing(
    dataset_id: str,
    name: str,
    files: Sequence[DatasetFile],
    fractions: Fractions,
    created_at: datetime,
    *,
    revision: int = 1,
) -> Listing:
    files = split_files(remove_duplicates(files), fractions)
    info = report(
        dataset_id, name, files, seed=fractions.seed, revision=revision, created_at=created_at
    )
    return Listing(
        info=info, validation=fractions.validation, test=fractions.test, files=list(files)
    )


def _prune(folder: Path, listing: Listing) -> None:
    """Remove images that are not part of the dataset after all."""
    admitted = {file.sha256 for file in listing.files if file.status == "admitted"}
    for path in (folder / FILES).glob("*/*"):
        if path.name not in admitted:
            path.unlink()


def _free_path(path: str, taken: set[str]) -> str:
    """Return `path`, with a number if it is taken."""
    stem, dot, suffix = path.rpartition(".")
    number, candidate = 1, path
    while candidate in taken:
        number += 1
        candidate = f"{stem}-{number}{dot}{suffix}" if dot else f"{path}-{number}"
    return candidate
