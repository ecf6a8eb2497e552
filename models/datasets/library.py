"""All datasets on the disk: `$OPSIN_HOME/datasets/{id}/` with `listing.json` and the pictures.

A dataset is put together in a staging folder and placed by one rename, so it is there whole or
not at all; what a killed process left in staging is removed by whoever comes next. The database
only repeats what the listings say, to be searched.
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
from models.datasets.admission import PICTURES, Admission, Told, content_path
from models.datasets.archives.formats import read_source
from models.datasets.archives.limits import Limits
from models.datasets.dataset import Dataset, Split
from models.datasets.labeling import labelled, without_copies
from models.datasets.listing import LISTING, load_folder, read_listing, write_listing
from models.datasets.report import report
from models.datasets.splitting import Fractions, split
from models.datasets.thumbnails import thumbnail
from models.store.hardlinks import link_tree
from models.store.locks import locked
from models.store.staging import Staging, flush_entries

DEFAULT = Fractions(0.15, 0.15, 0)


Check = Callable[[], None]


def _anything() -> None:
    """Objects to nothing."""


def _silent(_done: int, _next: str) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True)
class NewPicture:
    """A picture to be added: what it is called, and its bytes."""

    name: str
    data: bytes


class Library:
    """The datasets below one folder.

    Args:
        root: The folder; made on first use.
        limits: What bounds each of them.
    """

    def __init__(self, root: Path, limits: Limits) -> None:
        self._root = root
        self._limits = limits
        self._staging = Staging(root / ".staging")

    @classmethod
    def of(cls, settings: Settings) -> "Library":
        """The library of this installation."""
        return cls(settings.datasets_home, Limits.of(settings))

    @property
    def limits(self) -> Limits:
        """What bounds each dataset."""
        return self._limits

    def ids(self) -> list[str]:
        """All datasets, sorted."""
        return sorted(path.parent.name for path in self._root.glob(f"ds_*/{LISTING}"))

    def sweep(self) -> list[str]:
        """Remove what killed processes left behind, and name it."""
        return self._staging.sweep()

    def staging(self) -> AbstractContextManager[Path]:
        """A folder for an upload; gone when the block ends, or after this process is killed."""
        return self._staging.folder()

    def create(
        self,
        name: str,
        source: Path | None,
        fractions: Fractions = DEFAULT,
        *,
        told: Told = _silent,
        dataset_id: str | None = None,
    ) -> Listing:
        """Admit an archive or a folder, or begin an empty dataset.

        Args:
            name: What people shall call it.
            source: The archive or the folder; None for an empty one.
            fractions: How it is split where it has no splits.
            told: Hears of every file; what it raises ends the admission.
            dataset_id: From `new_dataset_id`, where it has to be known beforehand.

        Raises:
            InvalidArchive: It is damaged, dishonest or too much. Nothing of it is kept.
            Unavailable: The disk is full.
            Conflict: The id is taken.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        with self._staging.folder() as folder:
            files: list[DatasetFile] = []
            if source is not None:
                admission = Admission(folder, self._limits, told)
                files = labelled(admission.take(read_source(source, self._limits)))
            known = dataset_id or new_dataset_id()
            listing = _listing(known, name, files, fractions, datetime.now(UTC))
            (folder / PICTURES).mkdir(exist_ok=True)
            _prune(folder, listing)
            write_listing(folder, listing)
            self._place(folder, known)
        return listing

    def add(
        self,
        dataset_id: str,
        pictures: Sequence[NewPicture],
        label: str,
        chosen: Split | None,
        *,
        check: Check = _anything,
    ) -> tuple[Listing, list[DatasetFile]]:
        """Add pictures to one class.

        Args:
            dataset_id: Which dataset.
            pictures: To be added.
            label: Their class.
            chosen: Their split; None: it is drawn.
            check: Called when nobody else can change or `hold` the dataset; may raise.

        Returns:
            The listing as it is now, and what became of each picture, in order.

        Raises:
            DatasetNotFound: There is no such dataset.
            InvalidImage: There is one picture, and it is none.
            ImageTooLarge: Likewise.
            PayloadTooLarge: The dataset would be larger than the limits.
            Unavailable: The disk is full.
        """
        with self._changing(dataset_id) as folder:
            check()
            old = read_listing(folder)
            self._require_room(folder, old, pictures)
            added = self._admitted(folder, old, pictures, label, chosen)
            info = old.info
            listing = _listing(
                dataset_id,
                info.name,
                [*old.files, *added],
                Fractions(old.validation, old.test, info.seed),
                info.created_at,
                revision=info.revision + 1,
            )
            write_listing(folder, listing)
            _prune(folder, listing)
        now = {one.id: one for one in listing.files}
        return listing, [now[one.id] for one in added]

    def _require_room(self, folder: Path, old: Listing, pictures: Sequence[NewPicture]) -> None:
        wanted = sum(len(one.data) for one in pictures)
        if len(old.files) + len(pictures) > self._limits.files:
            raise PayloadTooLarge(f"A dataset may have {self._limits.files:,} files.")
        if old.info.size + wanted > self._limits.total_bytes:
            raise PayloadTooLarge(f"A dataset may have {self._limits.total_bytes:,} bytes.")
        self._limits.require_room(folder, wanted)

    def _admitted(
        self,
        folder: Path,
        old: Listing,
        pictures: Sequence[NewPicture],
        label: str,
        chosen: Split | None,
    ) -> list[DatasetFile]:
        admission = Admission(folder, self._limits, _silent)
        taken = {one.path for one in old.files}
        added: list[DatasetFile] = []
        for picture in pictures:
            path = _free_path(f"{label}/{picture.name}", taken)
            taken.add(path)
            one = admission.keep(path, picture.data)
            if len(pictures) == 1 and one.status == "rejected":
                kind = ImageTooLarge if one.code == "image_too_large" else InvalidImage
                raise kind(one.detail or "")
            added.append(one.model_copy(update={"label": label, "given_split": chosen}))
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
        """A dataset that a training may begin with.

        Raises:
            DatasetNotFound: As `load`.
            NotTrainable: It has too few classes or pictures; says which.
        """
        info = self.listing(dataset_id).info
        if not info.trainable:
            raise NotTrainable(info.reason or "Nothing can be learned from it.")
        return self.load(dataset_id)

    def picture(self, dataset_id: str, sha256: str) -> Path:
        """Where the picture of that hash lies.

        Raises:
            DatasetNotFound: There is no such dataset.
        """
        return content_path(self._folder(dataset_id), sha256)

    def thumbnail(self, dataset_id: str, sha256: str) -> bytes:
        """A small JPEG of the picture of that hash.

        Raises:
            DatasetNotFound: There is no such dataset, or the picture has gone.
        """
        folder = self._folder(dataset_id)
        picture = content_path(folder, sha256)
        try:
            return thumbnail(folder, picture, max_pixels=self._limits.image_pixels)
        except FileNotFoundError:
            raise DatasetNotFound("The dataset was deleted meanwhile.") from None

    def hold(self, dataset_id: str) -> AbstractContextManager[Path]:
        """Keep a dataset from being changed or deleted while the block runs.

        Raises:
            DatasetNotFound: There is no such dataset.
            Unavailable: It was being changed for half a minute.
        """
        return self._changing(dataset_id)

    def delete(self, dataset_id: str, *, check: Check = _anything) -> None:
        """Remove a dataset for good.

        Args:
            dataset_id: Which.
            check: As for `add`.

        Raises:
            DatasetNotFound: There is no such dataset.
        """
        with self._changing(dataset_id) as folder, self._staging.folder() as rubbish:
            check()
            folder.rename(rubbish / "deleted")
        (self._root / ".locks" / f"{dataset_id}.lock").unlink(missing_ok=True)

    def freeze(self, dataset_id: str, into: Path) -> None:
        """Lay a dataset as it is now into a folder that later changes do not reach.

        Args:
            dataset_id: Which.
            into: On the file system of the library, best from `staging`; see
            `models.store.hardlinks`.

        Raises:
            DatasetNotFound: There is no such dataset.
        """
        with self._changing(dataset_id) as folder:
            link_tree(folder, into)

    def _place(self, folder: Path, dataset_id: str) -> None:
        try:
            folder.rename(self._folder(dataset_id))
        except OSError as error:
            if not self._folder(dataset_id).exists():
                raise
            raise Conflict("There is a dataset of that id already.") from error
        flush_entries(self._root)

    @contextmanager
    def _changing(self, dataset_id: str) -> Iterator[Path]:
        """Alone with a dataset that is there."""
        folder = self._folder(dataset_id)
        read_listing(folder)
        with locked(self._root / ".locks" / f"{dataset_id}.lock"):
            read_listing(folder)  # another may have deleted it meanwhile
            yield folder

    def _folder(self, dataset_id: str) -> Path:
        if not re.fullmatch(DATASET_ID, dataset_id):
            raise DatasetNotFound("There is no dataset of that id. `GET /v1/datasets` lists all.")
        return self._root / dataset_id


def new_dataset_id() -> str:
    """An id nobody can guess."""
    return f"ds_{secrets.token_urlsafe(12)}"


def _listing(
    dataset_id: str,
    name: str,
    files: Sequence[DatasetFile],
    fractions: Fractions,
    created_at: datetime,
    *,
    revision: int = 1,
) -> Listing:
    judged = split(without_copies(files), fractions)
    info = report(
        dataset_id, name, judged, seed=fractions.seed, revision=revision, created_at=created_at
    )
    return Listing(
        info=info, validation=fractions.validation, test=fractions.test, files=list(judged)
    )


def _prune(folder: Path, listing: Listing) -> None:
    """Remove the pictures that turned out to be of no use."""
    kept = {one.sha256 for one in listing.files if one.status == "admitted"}
    for picture in (folder / PICTURES).glob("*/*"):
        if picture.name not in kept:
            picture.unlink()


def _free_path(path: str, taken: set[str]) -> str:
    """The path, with a number where it is taken."""
    stem, dot, ending = path.rpartition(".")
    number, found = 1, path
    while found in taken:
        number += 1
        found = f"{stem}-{number}{dot}{ending}" if dot else f"{path}-{number}"
    return found
