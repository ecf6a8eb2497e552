"""Adds images to a dataset: computes what changes, and publishes it in one step.

Nothing is part of a dataset until its listing says so. An addition is prepared beside the listing,
so that a single rename makes all of it true once the caller's last check has passed.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from contracts.errors import ImageTooLarge, InvalidImage, PayloadTooLarge
from contracts.files import flush_entries
from contracts.training.datasets import DatasetFile, DatasetInfo, LastAnswer
from models.datasets.admission import FILES, FileAdmission, content_path
from models.datasets.archives.limits import Limits
from models.datasets.dataset import Split
from models.datasets.labeling import resolve_copies
from models.datasets.listed_files import OpenListing
from models.datasets.listing import LISTING
from models.datasets.report import UPLOAD_NOTES, Countable, report
from models.datasets.splitting import Fractions, draw_splits, video_splits
from models.datasets.thumbnails import keep_left_out
from models.store.staging import flush_all


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image to add: its file name and its content."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class NewImages:
    """Images to add to one class.

    Attributes:
        split: None assigns the split by hash.
        video_gap: If they are frames of one video, in its order, how many to leave out between
            training and the other splits, see `video_splits`; None if they are not.
    """

    images: Sequence[NewImage]
    label: str
    split: Split | None
    video_gap: int | None = None

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(len(image.data) for image in self.images)


@dataclass(frozen=True, slots=True)
class Addition:
    """Images that are ready to become part of a dataset; from `DatasetStore.addition`.

    Attributes:
        info: The dataset as it will be.
        before: Its revision now.
        changed: The files that change, and the new ones, by their place in the listing.
        files: The result of each image that was sent, in order, without the gaps of a video.
    """

    info: DatasetInfo
    before: int
    changed: dict[int, DatasetFile]
    files: tuple[DatasetFile, ...]
    _folder: Path = field(repr=False)
    _scratch: Path = field(repr=False)
    _listing: OpenListing = field(repr=False)
    _limits: Limits = field(repr=False)

    def stage(self, answer: LastAnswer | None = None) -> None:
        """Write everything that takes time, without making it part of the dataset.

        Args:
            answer: The response to the request, if it may be repeated.
        """
        head = self._listing.head.model_copy(update={"info": self.info, "answer": answer})
        count = len(self._listing.files)
        changed = {place: file for place, file in self.changed.items() if place < count}
        with (self._scratch / LISTING).open("wb") as draft:
            self._listing.write(draft, head, changed, self.files)
        staged = [content_path(self._scratch, sha256) for sha256 in sorted(self._admitted)]
        # What the dataset has already was flushed before, and is not placed again.
        flush_all([path for path in staged if path.exists()])
        flush_entries(self._scratch / LISTING)

    def publish(self) -> None:
        """Make it part of the dataset. `stage` comes first."""
        placed: list[Path] = []
        try:
            for sha256 in sorted(self._admitted):
                placed += self._place(sha256)
            if placed:
                folders = {path.parent for path in placed}
                flush_all([*sorted(folders), self._folder / FILES])
            (self._scratch / LISTING).rename(self._folder / LISTING)
        except BaseException:
            for path in placed:
                path.unlink(missing_ok=True)
            raise
        flush_entries(self._folder)
        conflicts = [one for one in self.changed.values() if one.code == "label_conflict"]
        keep_left_out(self._folder, conflicts, max_pixels=self._limits.image_pixels)
        for file in conflicts:
            if file.sha256:
                content_path(self._folder, file.sha256).unlink(missing_ok=True)

    @property
    def _admitted(self) -> set[str]:
        """The images that become part of the dataset, by their hashes."""
        return {file.sha256 for file in self.files if file.status == "admitted" and file.sha256}

    def _place(self, sha256: str) -> list[Path]:
        """Put an image into the dataset's folder; return its path if it was not there."""
        target = content_path(self._folder, sha256)
        if target.exists():
            return []
        target.parent.mkdir(exist_ok=True)
        content_path(self._scratch, sha256).rename(target)
        return [target]


def prepare(
    folder: Path, scratch: Path, listing: OpenListing, new: NewImages, limits: Limits
) -> Addition:
    """Admit images, and compute the dataset with them.

    Args:
        folder: The dataset, which is locked.
        scratch: An empty folder on the same file system.

    Raises:
        OpsinError: As `DatasetStore.addition`.
    """
    _require_room(folder, listing, new, limits)
    added = _admit(scratch, listing, new, limits)
    changed = _without_copies(listing, added)
    files: list[Countable] = [*listing.files, *added]
    for place, file in changed.items():
        files[place] = file
    head = listing.head

    def entry(place: int) -> DatasetFile:
        return changed[place] if place in changed else listing.entry(place)

    fractions = Fractions(head.validation, head.test, head.info.seed)
    for place, drawn in enumerate(draw_splits(files, fractions)):
        if files[place].split != drawn:
            files[place] = changed[place] = entry(place).model_copy(update={"split": drawn})
    info = report(
        head.info.id,
        head.info.name,
        files,
        entry,
        seed=head.info.seed,
        revision=head.info.revision + 1,
        created_at=head.info.created_at,
        notes=[warning for warning in head.info.warnings if warning.code in UPLOAD_NOTES],
    )
    results = tuple(changed[len(listing.files) + place] for place in range(len(added)))
    return Addition(info, head.info.revision, changed, results, folder, scratch, listing, limits)


def _require_room(folder: Path, listing: OpenListing, new: NewImages, limits: Limits) -> None:
    if len(listing.files) + len(new.images) > limits.files:
        raise PayloadTooLarge(f"A dataset may have {limits.files:,} files.")
    if listing.head.info.size + new.size > limits.total_bytes:
        raise PayloadTooLarge(f"A dataset may have {limits.total_bytes:,} bytes.")
    limits.require_room(folder, new.size)


def _admit(
    scratch: Path, listing: OpenListing, new: NewImages, limits: Limits
) -> list[DatasetFile]:
    (scratch / FILES).mkdir()
    admission = FileAdmission(scratch, limits)
    paths = set(listing.paths)
    numbers: dict[str, int] = defaultdict(lambda: 1)
    added: list[DatasetFile] = []
    for image, split in zip(new.images, _given_splits(listing, new), strict=True):
        if split == "gap":
            continue
        path = _free_path(f"{new.label}/{image.name}", paths, numbers)
        paths.add(path)
        file = admission.admit(path, image.data)
        if len(new.images) == 1 and file.status == "rejected":
            error = ImageTooLarge if file.code == "image_too_large" else InvalidImage
            raise error(file.detail or "")
        added.append(file.model_copy(update={"label": new.label, "given_split": split}))
    return added


def _given_splits(listing: OpenListing, new: NewImages) -> list[Split | Literal["gap"] | None]:
    if new.video_gap is None:
        return [new.split] * len(new.images)
    head = listing.head
    fractions = Fractions(head.validation, head.test, head.info.seed)
    frames = [image.data for image in new.images]
    splits = video_splits(
        listing.files, new.label, frames, fractions, new.video_gap, given=new.split
    )
    return [split or "gap" for split in splits]


def _free_path(path: str, taken: set[str], numbers: dict[str, int]) -> str:
    """Return `path`, with a number if it is taken; `numbers` are those already tried."""
    stem, dot, suffix = path.rpartition(".")
    candidate = path
    while candidate in taken:
        numbers[path] += 1
        number = numbers[path]
        candidate = f"{stem}-{number}{dot}{suffix}" if dot else f"{path}-{number}"
    return candidate


def _without_copies(listing: OpenListing, added: Sequence[DatasetFile]) -> dict[int, DatasetFile]:
    """The new files, and those of the dataset that are left out because of them, by place."""
    count = len(listing.files)
    changed = {count + place: file for place, file in enumerate(added)}
    copies: dict[str, list[int]] = defaultdict(list)
    for place, file in changed.items():
        if file.status == "admitted" and file.sha256:
            copies[file.sha256].append(place)
    earlier = {
        place: listing.entry(place)
        for place, listed in enumerate(listing.files)
        if listed.sha256 in copies and listed.status == "admitted"
    }
    for place, file in earlier.items():
        copies[file.sha256 or ""].insert(0, place)
    for places in copies.values():
        if len(places) > 1:
            files = {(file := earlier.get(at) or changed[at]).id: (at, file) for at in places}
            for result in resolve_copies([file for _, file in files.values()]):
                place, before = files[result.id]
                if result != before or place >= count:
                    changed[place] = result
    return changed
