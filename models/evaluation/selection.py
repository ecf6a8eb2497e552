"""Which images of a dataset a version is measured on. Needs no TensorFlow."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress

from contracts.errors import NotTrainable, ValidationFailed
from contracts.inference.evaluation import EvaluatedSplit
from contracts.inference.manifest import Manifest
from models.datasets.dataset import Dataset, Example, Split
from models.store.labels import ClassIndices, Label

_PREFERENCE: tuple[Split, ...] = ("test", "validation")


@dataclass(frozen=True, slots=True)
class Selection:
    """The images that a version is measured on.

    Attributes:
        examples: All with a class that the version has.
        truth: The index of each one's class.
        unknown: Number of the other images, by class.
    """

    split: EvaluatedSplit
    examples: tuple[Example, ...]
    truth: tuple[int, ...]
    unknown: Mapping[str, int]

    def only(self, kept: Sequence[bool]) -> "Selection":
        """Only the images for which `kept` is true."""
        examples = tuple(compress(self.examples, kept))
        return replace(self, examples=examples, truth=tuple(compress(self.truth, kept)))


def choose_split(asked: EvaluatedSplit | None, counts: Mapping[Split, int]) -> EvaluatedSplit:
    """The split to measure: the one that was asked for, or the one a training would report.

    Args:
        counts: Images of each split.

    Raises:
        ValidationFailed: It has no images.
    """
    if asked is None:
        return next((split for split in _PREFERENCE if counts.get(split)), "all")
    if asked != "all" and not counts.get(asked):
        others = ", ".join(f"{name} ({count})" for name, count in counts.items() if count)
        raise ValidationFailed(
            f"split: the dataset has no {asked} images. It has {others or 'none at all'}; "
            'send one of these, or "all".'
        )
    return asked


def select(dataset: Dataset, asked: EvaluatedSplit | None, labels: Sequence[Label]) -> Selection:
    """Select the images, and find the index of each one's class.

    Raises:
        NotTrainable: None has a class of the version.
        ValidationFailed: The split has no images.
    """
    split = choose_split(asked, Counter(example.split for example in dataset.examples))
    examples = dataset.examples if split == "all" else dataset.of(split)
    indices = ClassIndices(labels)
    found = [(example, indices.find(example.label)) for example in examples]
    known = [(example, index) for example, index in found if index is not None]
    if not known:
        check_classes({example.label for example in examples}, labels)
    unknown = Counter(example.label for example, index in found if index is None)
    return Selection(
        split,
        tuple(example for example, _ in known),
        tuple(index for _, index in known),
        dict(sorted(unknown.items())),
    )


def check_classes(classes: Collection[str], labels: Sequence[Label]) -> None:
    """Check that a version has at least one of a dataset's classes.

    Raises:
        NotTrainable: It has none.
    """
    indices = ClassIndices(labels)
    if any(indices.find(name) is not None for name in classes):
        return
    known = ", ".join(label.text for label in labels[:10])
    found = ", ".join(sorted(classes)[:10]) or "none"
    raise NotTrainable(
        f"The dataset has no images of the version's classes, so nothing can be measured. "
        f"Its classes: {found}. The version's: {known}{', …' if len(labels) > 10 else ''}. "
        "Give the dataset's classes the names of the version's."
    )


def check_measurable(manifest: Manifest) -> None:
    """Check that a version is a classifier.

    Raises:
        NotTrainable: It is not.
    """
    if "serve" not in manifest.endpoints:
        raise NotTrainable(
            f"Version {manifest.version} of '{manifest.model}' has no classifier to measure."
        )
