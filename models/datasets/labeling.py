"""Labels and splits for what was admitted, and what must leave because of others.

A picture that is there twice would be counted twice; one that stands in training and in test
would make the test a lie; one that has two labels has none.
"""

from collections import defaultdict
from collections.abc import Sequence

from contracts.training.datasets import DatasetFile
from models.datasets.dataset import SPLITS
from models.datasets.layout import Layout

_RANK = {split: rank for rank, split in enumerate(reversed(SPLITS))}  # the test keeps its own
_PICTURES = frozenset({"damaged_image", "image_too_large", "file_too_large", "unreadable"})


def labelled(files: Sequence[DatasetFile]) -> list[DatasetFile]:
    """Every file with the label and split that its folder gives it."""
    meant = [one for one in files if one.status == "admitted" or one.code in _PICTURES]
    layout = Layout.of([one.path for one in meant])
    return [one if one.code == "hidden" else _placed(one, layout) for one in files]


def _placed(one: DatasetFile, layout: Layout) -> DatasetFile:
    place = layout.place(one.path)
    if place is not None:
        known = {"label": place.label, "split": place.split, "given_split": place.split}
        return one.model_copy(update=known)
    if one.status == "rejected":
        return one
    where = "train, validation or test, in a folder" if layout.has_splits else "a folder"
    return left_out(one, "no_label", f"It lies in no class. Put it into {where} named after it.")


def without_copies(files: Sequence[DatasetFile]) -> list[DatasetFile]:
    """The same files, copies left out: of the same bytes one stays, or none where labels differ."""
    groups: dict[str, list[DatasetFile]] = defaultdict(list)
    for one in files:
        if one.status == "admitted" and one.sha256 is not None:
            groups[one.sha256].append(one)
    changed: dict[str, DatasetFile] = {}
    for copies in groups.values():
        if len(copies) > 1:
            changed |= {one.id: one for one in _judged(copies)}
    return [changed.get(one.id, one) for one in files]


def _judged(copies: list[DatasetFile]) -> list[DatasetFile]:
    labels = sorted({one.label or "" for one in copies})
    if len(labels) > 1:
        detail = f"The same picture is labelled {' and '.join(map(repr, labels))}."
        return [left_out(one, "label_conflict", detail) for one in copies]
    first, *others = sorted(copies, key=lambda one: _RANK[one.given_split or "train"])
    return [first, *(_copy(one, first) for one in others)]


def _copy(one: DatasetFile, first: DatasetFile) -> DatasetFile:
    if (one.given_split or "train") == (first.given_split or "train"):
        return left_out(one, "duplicate", f"The same picture as {first.path}.")
    return left_out(one, "leak", f"The same picture is in {first.given_split}: {first.path}.")


def left_out(one: DatasetFile, code: str, detail: str) -> DatasetFile:
    """The file, left out for a reason that shows only among others."""
    action = f"left out of {one.given_split or 'train'}" if code == "leak" else "left out"
    return one.model_copy(
        update={"status": "rejected", "code": code, "detail": detail, "action": action}
    )
