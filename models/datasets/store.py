"""All datasets on the disk: `$OPSIN_HOME/datasets/{id}/` with `listing.json` and the images.

A dataset is assembled in a staging folder and published by one rename, so it exists completely or
not at all. What a killed process leaves in staging is removed by the next sweep. The database only
repeats the listings, so that they can be searched.
"""

import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from contracts.errors import Conflict, DatasetNotFound, NotFound
from contracts.files import flush_entries
from contracts.settings import Settings
from contracts.training.datasets import DATASET_ID, DatasetInfo, LastAnswer, Listing
from models.datasets.addition import Addition, NewImages, prepare
from models.datasets.admission import FILES, FileAdmission, ImportProgress, content_path
from models.datasets.archives.formats import read_source
from models.datasets.archives.limits import Limits
from models.datasets.archives.members import Member
from models.datasets.archives.name_encoding import UNNAMED, NameReader, Naming
from models.datasets.dataset import Dataset
from models.datasets.labeling import Labeled, assign_labels, remove_duplicates
from models.datasets.listed_files import open_listing
from models.datasets.listing import (
    LISTING,
    load_folder,
    not_found,
    read_listing,
    read_revision,
    write_listing,
)
from models.datasets.report import report
from models.datasets.splitting import Fractions, split_files
from models.datasets.thumbnails import keep_left_out, thumbnail
from models.images.gate import Gate, at_once
from models.locks import LOCK_SECONDS, locked
from models.store.hardlinks import link_tree
from models.store.staging import Staging, flush_all

DEFAULT_FRACTIONS = Fractions(0.15, 0.15, 0)


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
    def home(self) -> Path:
        """The data home that the datasets are in."""
        return self._root.parent

    @property
    def limits(self) -> Limits:
        """The limits of each dataset."""
        return self._limits

    def ids(self) -> list[str]:
        """The ids of all datasets, sorted."""
        return sorted(path.parent.name for path in self._root.glob(f"ds_*/{LISTING}"))

    def exists(self, dataset_id: str) -> bool:
        """Whether there is a dataset with that id."""
        return (self._folder(dataset_id) / LISTING).is_file()

    def sweep(self) -> list[str]:
        """Remove what killed processes left behind; return its names."""
        return self._staging.sweep()

    def staging(self) -> AbstractContextManager[Path]:
        """A folder for an upload; it is removed when the block ends, or after a crash."""
        return self._staging.folder()

    def create(
        self,
        name: str,
        source: Path | Iterable[Member] | None,
        fractions: Fractions = DEFAULT_FRACTIONS,
        *,
        progress: ImportProgress | None = None,
        dataset_id: str | None = None,
        naming: Naming = UNNAMED,
        answer: Callable[[DatasetInfo], LastAnswer] | None = None,
    ) -> Listing:
        """Import an archive or a folder, or create an empty dataset.

        Args:
            source: The archive, the folder, or the files themselves; None creates an empty dataset.
            fractions: How to split the images if the upload has no splits.
            dataset_id: From `new_dataset_id`, if it has to be known beforehand.
            naming: What the client says about names.
            answer: Makes the response to the request, if it may be repeated.

        Raises:
            InvalidArchive: The archive is damaged, malicious or too large. Nothing is stored.
            PayloadTooLarge: The names of its classes are too long together. Nothing is stored.
            Unavailable: The disk is full.
            Conflict: The id is taken.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        if source is None:
            self._limits.require_room(self._root, 0)
        with self._staging.folder() as folder:
            upload = Labeled([], [])
            if source is not None:
                names = NameReader(naming.encoding)
                admission = FileAdmission(folder, self._limits, progress)
                if isinstance(source, Path):
                    source = read_source(source, self._limits, names)
                files = admission.admit_all(source)
                upload = assign_labels(
                    files,
                    admission.tables,
                    naming.encoding,
                    naming.labels_from,
                    check=partial(_report_tables, progress, len(files)),
                )
                upload.notes.extend(names.notes())
            dataset_id = dataset_id or new_dataset_id()
            listing = _make_listing(dataset_id, name, upload, fractions, datetime.now(UTC))
            if answer is not None:
                listing = listing.model_copy(update={"answer": answer(listing.info)})
            (folder / FILES).mkdir(exist_ok=True)
            self._prune(folder, listing)
            flush_all([*(folder / FILES).rglob("*"), folder / FILES])
            write_listing(folder, listing)
            self._publish(folder, dataset_id)
        return listing

    @contextmanager
    def addition(self, dataset_id: str, new: NewImages) -> Iterator[Addition]:
        """Prepare the addition of images to one class. The caller holds the `lock`.

        Unless the addition is published in the block, the dataset remains as it is.

        Raises:
            DatasetNotFound: There is no such dataset.
            InvalidImage: There is a single image, and it is not one.
            ImageTooLarge: There is a single image, and it is too large.
            PayloadTooLarge: The dataset would exceed the limits.
            Unavailable: The disk is full.
        """
        folder = self._folder(dataset_id)
        with open_listing(folder, new.label) as listing, self._staging.folder() as scratch:
            yield prepare(folder, scratch, listing, new, self._limits)

    def listing(self, dataset_id: str) -> Listing:
        """All files of a dataset, and its counts.

        Raises:
            DatasetNotFound: There is no such dataset.
        """
        return read_listing(self._folder(dataset_id))

    def own_listing(self, dataset_id: str) -> Listing:
        """As `listing`, after giving a folder that was copied an id of its own: its name.

        The caller holds the `lock`.

        Raises:
            DatasetNotFound: There is no such dataset, or its folder links to that of another one.
            OSError: The listing cannot be written.
        """
        listing, folder = self.listing(dataset_id), self._folder(dataset_id)
        if listing.info.id == dataset_id:
            return listing
        if folder.is_symlink():
            raise DatasetNotFound(f"The folder is a link to that of {listing.info.id}.")
        info = listing.info.model_copy(update={"id": dataset_id})
        listing = listing.model_copy(update={"info": info, "answer": None})
        write_listing(folder, listing)
        return listing

    def revision(self, dataset_id: str) -> int:
        """The revision of a dataset, read without its files.

        Raises:
            DatasetNotFound: There is no such dataset.
        """
        return read_revision(self._folder(dataset_id))

    def load(self, dataset_id: str) -> Dataset:
        """A dataset as a training sees it.

        Raises:
            DatasetNotFound: There is no such dataset, or it is damaged.
        """
        return load_folder(self._folder(dataset_id))

    def thumbnail(self, dataset_id: str, sha256: str, large: Gate = at_once) -> bytes:
        """A small JPEG of the image with that hash; `large` as for `models.images.decode`.

        Raises:
            DatasetNotFound: There is no such dataset.
            NotFound: The image was left out, and has no thumbnail.
        """
        folder = self._folder(dataset_id)
        path = content_path(folder, sha256)
        try:
            return thumbnail(
                folder,
                path,
                max_pixels=self._limits.image_pixels,
                large=large,
                kept_bytes=self._limits.free_bytes,
            )
        except FileNotFoundError:
            _require_listing(folder)
            raise NotFound("The image was left out of the dataset and was not kept.") from None

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

    def _prune(self, folder: Path, listing: Listing) -> None:
        """Remove images that are not part of the dataset after all; some leave a thumbnail."""
        admitted = {file.sha256 for file in listing.files if file.status == "admitted"}
        left_out = [file for file in listing.files if file.sha256 not in admitted]
        keep_left_out(
            folder, left_out, max_pixels=self._limits.image_pixels, large=self._limits.large_image
        )
        for path in (folder / FILES).glob("*/*"):
            if path.name not in admitted:
                path.unlink()

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
        _require_listing(folder)  # no lock file is made for what does not exist
        with locked(self._root / ".locks" / f"{dataset_id}.lock", timeout=timeout):
            _require_listing(folder)  # another process may have deleted it in the meantime
            yield folder

    def _folder(self, dataset_id: str) -> Path:
        if not re.fullmatch(DATASET_ID, dataset_id):
            raise DatasetNotFound("There is no dataset with that id. `GET /v1/datasets` lists all.")
        return self._root / dataset_id


def new_dataset_id() -> str:
    """A random id that cannot be guessed."""
    return f"ds_{secrets.token_urlsafe(12)}"


def _require_listing(folder: Path) -> None:
    """Check that a dataset exists; it may be damaged, so that it can be deleted."""
    if not (folder / LISTING).is_file():
        raise not_found()


def _report_tables(progress: ImportProgress | None, done: int) -> None:
    """Report, while tables are read, that all files are done; an exception ends the import."""
    if progress is not None:
        progress(done, "")


def _make_listing(
    dataset_id: str,
    name: str,
    upload: Labeled,
    fractions: Fractions,
    created_at: datetime,
) -> Listing:
    files = split_files(remove_duplicates(upload.files), fractions)
    info = report(
        dataset_id,
        name,
        files,
        files.__getitem__,
        seed=fractions.seed,
        revision=1,
        created_at=created_at,
        notes=upload.notes,
    )
    return Listing(
        info=info, validation=fractions.validation, test=fractions.test, files=list(files)
    )
