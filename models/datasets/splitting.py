"""A stratified split into training, validation and test that depends only on content and seed.

Within each class the images are ordered by a hash of the seed and their content. The first of them
go to test, the next to validation. The same images and seed therefore give the same split on every
machine and in any order, and an additional image moves few of the others.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.training.datasets import DatasetFile
from models.datasets.dataset import Split


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
    """Assign a split to every admitted file.

    Given splits are kept. If none of them is validation, some of the training images are used for
    validation; the test split is never taken from them.
    """
    admitted = [file for file in files if file.status == "admitted"]
    free = [file for file in admitted if file.given_split is None]
    splits: dict[str, Split] = {file.id: file.given_split for file in admitted if file.given_split}
    has_validation = "validation" in splits.values()
    splits |= _draw(free, fractions)
    if not has_validation:
        training = [file for file in admitted if file.given_split == "train"]
        splits |= _draw(training, Fractions(fractions.validation, 0.0, fractions.seed))
    return [
        file.model_copy(update={"split": splits.get(file.id, file.given_split)}) for file in files
    ]


def _draw(files: Sequence[DatasetFile], fractions: Fractions) -> dict[str, Split]:
    classes: dict[str, list[DatasetFile]] = defaultdict(list)
    for file in files:
        classes[file.label or ""].append(file)
    splits: dict[str, Split] = {}
    for members in classes.values():
        validation, test = fractions.counts(len(members))
        members.sort(key=lambda file: _rank(file, fractions.seed))
        for index, file in enumerate(members):
            splits[file.id] = (
                "test" if index < test else "validation" if index < test + validation else "train"
            )
    return splits


def _rank(file: DatasetFile, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{file.sha256}".encode()).hexdigest()
