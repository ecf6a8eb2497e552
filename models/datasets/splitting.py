"""A stratified split into training, validation and test that depends only on content and seed.

Within each class the images are ordered by a hash of the seed and their content. The first of them
go to test, the next to validation. The same images and seed therefore give the same split on every
machine and in any order, and an additional image moves few of the others.

Frames of one video resemble their neighbors too much to be drawn one by one: `video_splits`.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from contracts.training.datasets import DatasetFile, FileStatus, SplitName
from models.datasets.dataset import Split


class Splittable(Protocol):
    """What the split of a file depends on."""

    @property
    def status(self) -> FileStatus: ...
    @property
    def label(self) -> str | None: ...
    @property
    def given_split(self) -> SplitName | None: ...
    @property
    def sha256(self) -> str | None: ...


class SplitFile(Splittable, Protocol):
    """A file that has its split."""

    @property
    def split(self) -> SplitName | None: ...


@dataclass(frozen=True, slots=True)
class Fractions:
    """How a dataset is split.

    Attributes:
        validation: Fraction of each class used for validation, 0 to 0.9.
        test: Fraction of each class used for the test.
        seed: Another seed gives another split.
    """

    validation: float
    test: float
    seed: int

    def counts(self, images: int) -> tuple[int, int]:
        """Images of a class for validation and test; at least one remains for training."""
        test = min(_rounded(self.test, images), max(0, images - 1))
        validation = _rounded(self.validation, images)
        return min(validation, max(0, images - 1 - test)), test


def _rounded(fraction: float, images: int) -> int:
    """The nearest whole number; at least 1 for a class of five or more images."""
    count = int(fraction * images + 0.5)
    return max(count, 1) if fraction > 0 and images >= 5 else count


def split_files(files: Sequence[DatasetFile], fractions: Fractions) -> list[DatasetFile]:
    """Assign a split to every admitted file, as `draw_splits`."""
    splits = draw_splits(files, fractions)
    return [
        file if file.split == split else file.model_copy(update={"split": split})
        for file, split in zip(files, splits, strict=True)
    ]


def draw_splits(files: Sequence[Splittable], fractions: Fractions) -> list[Split | None]:
    """The split of every file; a rejected one has the split that it was given.

    Given splits are kept. If none of them is validation, some of the training images are used for
    validation; the test split is never taken from them.
    """
    splits = [file.given_split for file in files]
    admitted = [place for place, file in enumerate(files) if file.status == "admitted"]
    free = [place for place in admitted if splits[place] is None]
    has_validation = any(splits[place] == "validation" for place in admitted)
    training = [] if has_validation else [at for at in admitted if splits[at] == "train"]
    _draw(splits, files, free, fractions)
    _draw(splits, files, training, Fractions(fractions.validation, 0.0, fractions.seed))
    return splits


def video_splits(
    listed: Iterable[SplitFile],
    label: str,
    frames: Sequence[Hashable],
    fractions: Fractions,
    gap: int,
) -> list[Split | None]:
    """The split of each frame of a video that is added to a class, in the video's order.

    The last frames go to test, as many as the class lacks, those before them to validation, and the
    others to training, except for those just before, which are left out: None. Equal frames have
    the same split.

    Args:
        listed: All files of the dataset.
        frames: Equal if their images are.
        gap: Frames to leave out between training and the rest; at most a tenth of the training's.
    """
    files = [file for file in listed if file.status == "admitted"]
    have = Counter(file.split for file in files if file.label == label)
    count = len(places := dict.fromkeys(frames))
    validation, test = fractions.counts(have.total() + count)
    # A class without training images needs some of these.
    most = (count, count) if have["train"] else fractions.counts(count)
    test = min(max(0, test - have["test"]), most[1])
    validation = min(max(0, validation - have["validation"]), most[0], count - test)
    if any(file.given_split == "train" and file.split == "validation" for file in files):
        validation = 0  # `draw_splits` takes it from the training images, of all classes
    train = count - test - validation
    left_out = min(gap, train // 10) if train < count else 0
    stretches: list[tuple[Split | None, int]] = [
        ("train", train - left_out),
        (None, left_out),
        ("validation", validation),
        ("test", test),
    ]
    splits = [split for split, length in stretches for _ in range(length)]
    split_of = dict(zip(places, splits, strict=True))
    return [split_of[frame] for frame in frames]


def _draw(
    splits: list[Split | None],
    files: Sequence[Splittable],
    places: Sequence[int],
    fractions: Fractions,
) -> None:
    """Draw the splits of the files at `places`, each class by itself."""
    classes: dict[str, list[int]] = defaultdict(list)
    for place in places:
        classes[files[place].label or ""].append(place)
    for members in classes.values():
        validation, test = fractions.counts(len(members))
        members.sort(key=lambda place: _rank(files[place], fractions.seed))
        for index, place in enumerate(members):
            splits[place] = (
                "test" if index < test else "validation" if index < test + validation else "train"
            )


def _rank(file: Splittable, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{file.sha256}".encode()).hexdigest()
