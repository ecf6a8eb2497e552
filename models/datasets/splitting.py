"""Who learns and who tests: a stratified split that depends on content and seed alone.

Within each class the pictures are ordered by a hash of the seed and their bytes, and the first of
them go to test, the next to validation. So the same pictures and seed give the same split on
every machine and in whatever order they came; a picture more moves few of the others.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.training.datasets import DatasetFile
from models.datasets.dataset import Split


@dataclass(frozen=True, slots=True)
class Fractions:
    """What is set aside.

    Attributes:
        validation: The part of each class that is for validation, 0 to 0.9.
        test: The part that is for the test.
        seed: Another one gives another split.
    """

    validation: float
    test: float
    seed: int

    def counts(self, pictures: int) -> tuple[int, int]:
        """Pictures of a class that go to validation and to test; at least one is left to learn."""
        test = _part(self.test, pictures)
        validation = _part(self.validation, pictures)
        test = min(test, max(0, pictures - 1))
        return min(validation, max(0, pictures - 1 - test)), test


def _part(fraction: float, pictures: int) -> int:
    """To the nearest whole number; at least one of five."""
    part = int(fraction * pictures + 0.5)
    return max(part, 1) if fraction > 0 and pictures >= 5 else part


def split(files: Sequence[DatasetFile], fractions: Fractions) -> list[DatasetFile]:
    """Every admitted file with a split.

    Given splits are kept, but for one thing: where none of them is for validation, validation is
    taken from those to learn from. The test is never made from them.
    """
    admitted = [one for one in files if one.status == "admitted"]
    free = [one for one in admitted if one.given_split is None]
    chosen: dict[str, Split] = {one.id: one.given_split for one in admitted if one.given_split}
    validated = "validation" in chosen.values()
    chosen |= _drawn(free, fractions)
    if not validated:
        learning = [one for one in admitted if one.given_split == "train"]
        chosen |= _drawn(learning, Fractions(fractions.validation, 0.0, fractions.seed))
    return [one.model_copy(update={"split": chosen.get(one.id, one.given_split)}) for one in files]


def _drawn(files: Sequence[DatasetFile], fractions: Fractions) -> dict[str, Split]:
    classes: dict[str, list[DatasetFile]] = defaultdict(list)
    for one in files:
        classes[one.label or ""].append(one)
    found: dict[str, Split] = {}
    for members in classes.values():
        validation, test = fractions.counts(len(members))
        for at, one in enumerate(sorted(members, key=lambda one: _lot(one, fractions.seed))):
            found[one.id] = (
                "test" if at < test else "validation" if at < test + validation else "train"
            )
    return found


def _lot(one: DatasetFile, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{one.sha256}".encode()).hexdigest()
