"""Assigns labels and splits to admitted files, and removes duplicates.

An image that occurs twice would count twice, one that is in both training and test would make the
test meaningless, and one that has two labels cannot be used.
"""

from collections import defaultdict
from collections.abc import Sequence

from contracts.training.datasets import DatasetFile
from models.datasets.dataset import SPLITS
from models.datasets.layout import Layout

_SPLIT_RANK = {split: rank for rank, split in enumerate(reversed(SPLITS))}  # test comes first
_IMAGE_FAULTS = frozenset({"damaged_image", "image_too_large", "file_too_large", "unreadable"})


def assign_labels(files: Sequence[DatasetFile]) -> list[DatasetFile]:
    """Every file with the label and split that its folder implies."""
    images = [file for file in files if file.status == "admitted" or file.code in _IMAGE_FAULTS]
    layout = Layout.of([file.path for file in images])
    return [file if file.code == "hidden" else _with_label(file, layout) for file in files]


def _with_label(file: DatasetFile, layout: Layout) -> DatasetFile:
    folder = layout.find(file.path)
    if folder is not None:
        update = {"label": folder.label, "split": folder.split, "given_split": folder.split}
        return file.model_copy(update=update)
    if file.status == "rejected":
        return file
    where = "train, validation or test, in a folder" if layout.has_splits else "a folder"
    detail = f"It is not in the folder of a class. Put it into {where} named after its class."
    return _left_out(file, "no_label", detail)


def remove_duplicates(files: Sequence[DatasetFile]) -> list[DatasetFile]:
    """Leave out copies: of equal files one remains, or none if their labels differ."""
    groups: dict[str, list[DatasetFile]] = defaultdict(list)
    for file in files:
        if file.status == "admitted" and file.sha256 is not None:
            groups[file.sha256].append(file)
    changed: dict[str, DatasetFile] = {}
    for copies in groups.values():
        if len(copies) > 1:
            changed |= {file.id: file for file in _resolve(copies)}
    return [changed.get(file.id, file) for file in files]


def _resolve(copies: list[DatasetFile]) -> list[DatasetFile]:
    labels = sorted({file.label or "" for file in copies})
    if len(labels) > 1:
        detail = f"The same image is labelled {' and '.join(map(repr, labels))}."
        return [_left_out(file, "label_conflict", detail) for file in copies]
    first, *others = sorted(copies, key=lambda file: _SPLIT_RANK[file.given_split or "train"])
    return [first, *(_duplicate(file, first) for file in others)]


def _duplicate(file: DatasetFile, first: DatasetFile) -> DatasetFile:
    if (file.given_split or "train") == (first.given_split or "train"):
        return _left_out(file, "duplicate", f"It is the same image as {first.path}.")
    detail = f"The same image is in {first.given_split}: {first.path}."
    return _left_out(file, "leak", detail)


def _left_out(file: DatasetFile, code: str, detail: str) -> DatasetFile:
    action = f"left out of {file.given_split or 'train'}" if code == "leak" else "left out"
    return file.model_copy(
        update={"status": "rejected", "code": code, "detail": detail, "action": action}
    )
