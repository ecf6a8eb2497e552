"""A stratified split into training, validation and test that depends only on content and seed.

Within each class the images are ordered by a hash of the seed and their content. The first of them
go to test, the next to validation. The same images and seed therefore give the same split on every
machine and in any order, and an additional image moves few of the others.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
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
