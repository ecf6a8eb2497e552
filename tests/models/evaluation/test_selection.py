from collections.abc import Sequence
from pathlib import Path

import pytest

from contracts.errors import NotTrainable, ValidationFailed
from models.datasets.dataset import Dataset, Example, Split
from models.evaluation import selection
from models.evaluation.selection import check_classes, choose_split, select
from models.store.labels import ClassIndices, Label


def dataset(*parts: tuple[str, Split]) -> Dataset:
    examples = tuple(
        Example(Path(f"{number}.png"), label, split, f"{number:064d}")
        for number, (label, split) in enumerate(parts)
    )
    return Dataset("d", "sha256:1", tuple(sorted({label for label, _ in parts})), examples)


LABELS = (
    *(Label("n1", "tabby cat"), Label("n2", "crane")),
    *(Label("n3", "crane"), Label("n4", "dog")),
)


def test_classes_are_matched_by_name_or_id_and_the_others_counted() -> None:
    parts = [("Tabby_cat", "test"), ("n3", "test"), ("crane", "test"), ("cow", "test")]
    found = select(dataset(*parts, ("dog", "train")), None, LABELS)  # type: ignore[arg-type]
    assert (found.split, found.truth) == ("test", (0, 2))
    assert found.unknown == {"cow": 1, "crane": 1}, "two classes are called crane"


@pytest.mark.parametrize(
    ("labels", "name", "expected"),
    [
        (("Cat", "cat"), "Cat", 0),
        (("Cat", "cat"), "cat", 1),
        (("Cat", "cat"), "CAT", None),
        (("Cat", "dog"), "cat", 0),
        (("a_b", "a b"), "a_b", 0),
        (("a_b", "a b"), "a b", 1),
        (("a_b", "c"), " A B ", 0),
    ],
)
def test_classes_that_differ_only_in_case_are_two(
    labels: tuple[str, ...], name: str, expected: int | None
) -> None:
    indices = ClassIndices([Label(label, label) for label in labels])
    assert indices.find(name) == expected


def test_images_of_classes_that_differ_only_in_case_are_counted_as_their_own() -> None:
    labels = [Label("Cat", "Cat"), Label("cat", "cat")]
    found = select(dataset(("Cat", "test"), ("cat", "test"), ("cAt", "test")), None, labels)
    assert (found.truth, found.unknown) == ((0, 1), {"cAt": 1})


def test_default_is_what_a_training_reports() -> None:
    assert choose_split(None, {"train": 3, "validation": 2, "test": 1}) == "test"
    assert choose_split(None, {"train": 3, "validation": 2}) == "validation"
    assert choose_split(None, {"train": 3, "test": 0}) == "all"
    assert choose_split("all", {"train": 3}) == "all"
    with pytest.raises(ValidationFailed, match=r"no test images.*train \(3\)"):
        choose_split("test", {"train": 3, "test": 0})


def test_dataset_without_a_known_class_is_refused() -> None:
    with pytest.raises(NotTrainable, match=r"cow.*tabby cat"):
        select(dataset(("cow", "test")), None, LABELS)


def test_the_names_of_a_versions_classes_are_normalized_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once for each class of the dataset took ten seconds for 20,000 classes."""
    calls: list[int] = []

    def counted(labels: Sequence[Label]) -> ClassIndices:
        calls.append(len(labels))
        return ClassIndices(labels)

    monkeypatch.setattr(selection, "ClassIndices", counted)
    with pytest.raises(NotTrainable, match="cow0"):
        check_classes([f"cow{number}" for number in range(50)], LABELS)
    assert calls == [len(LABELS)]
