"""Assigns labels and splits to admitted files, and removes duplicates.

An image that occurs twice would count twice, one that is in both training and test would make the
test meaningless, and one that has two labels cannot be used.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from contracts.training.datasets import DatasetFile, DatasetWarning, LabelSource
from models.datasets.dataset import SPLITS
from models.datasets.labels_file import TableLabels, read_tables
from models.datasets.layout import (
    ClassFolder,
    Layout,
    label_in_name,
    split_of,
)
from models.datasets.layout_notes import layout_notes

_SPLIT_RANK = {split: rank for rank, split in enumerate(reversed(SPLITS))}  # test comes first
_IMAGE_FAULTS = frozenset({"damaged_image", "image_too_large", "file_too_large", "unreadable"})
_MIN_FOLDER_CLASSES = 2
_MAX_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Labeled:
    """Files with their labels, and warnings about the upload as a whole."""

    files: list[DatasetFile]
    notes: list[DatasetWarning]


def assign_labels(
    files: Sequence[DatasetFile],
    tables: Sequence[tuple[str, bytes]] = (),
    encoding: str | None = None,
    labels_from: LabelSource = "folders",
    check: Callable[[], None] = lambda: None,
) -> Labeled:
    """Every file with the label and split that its folder implies, or that a table names.

    Args:
        tables: The path and the content of each file that may be a table of labels.
        encoding: That of the tables, if the client has named it.
        labels_from: Where the labels are if no table names them.
        check: Called often while tables are read; may raise.

    Raises:
        InvalidArchive: As `read_tables`.
    """
    paths = [f.path for f in files if f.status == "admitted" or f.code in _IMAGE_FAULTS]
    layout = Layout.of(paths)
    if labels_from == "file_names":
        return Labeled([_named_by_file(file, layout) for file in files], [])
    folders = {path: layout.find(path) for path in paths}
    found = read_tables(tables, paths, encoding, check) if tables else TableLabels()
    if found.labels:
        return _labeled_by_tables(files, found, layout, folders)
    labeled = [
        file if file.code == "hidden" else _with_label(file, layout.find(file.path), layout)
        for file in files
    ]
    return Labeled(labeled, layout_notes(layout, folders, files))


def _labeled_by_tables(
    files: Sequence[DatasetFile],
    found: TableLabels,
    layout: Layout,
    folders: dict[str, ClassFolder | None],
) -> Labeled:
    use_all = _tables_win(found, folders)
    chosen = {path: _from_table(path, found, layout) for path in found.labels}
    chosen = _without_single_split(chosen, found)

    def labeled(file: DatasetFile) -> DatasetFile:
        if file.code == "hidden":
            return file
        if file.path in found.tables:
            detail = "The labels of the images were read from it."
            update = {"code": "labels_file", "detail": detail, "action": "read"}
            return file.model_copy(update=update)
        if file.path in found.conflicts:
            detail = f"{found.labels[file.path].table} names it with several labels."
            return _left_out(file, "label_conflict", detail)
        if use_all or folders.get(file.path) is None:
            tables = found.tables if use_all else ()
            return _with_label(file, chosen.get(file.path), layout, tables)
        return _with_label(file, layout.find(file.path), layout)

    return Labeled(list(map(labeled, files)), [_tables_note(found, folders, use_all)])


def _tables_win(found: TableLabels, folders: dict[str, ClassFolder | None]) -> bool:
    """Whether the tables count, and not the folders."""
    classes = {folder.label for folder in folders.values() if folder is not None}
    if len(classes) < _MIN_FOLDER_CLASSES or all(split_of(name) for name in classes):
        return True
    return len(found.labels) * 2 >= len(folders)


def _from_table(path: str, found: TableLabels, layout: Layout) -> ClassFolder:
    label = found.labels[path]
    return ClassFolder(label.label, label.split or layout.split(path))


def _without_single_split(
    chosen: dict[str, ClassFolder], found: TableLabels
) -> dict[str, ClassFolder]:
    """If only the images of `train` have labels, `train` is the whole dataset."""
    splits = {folder.split for folder in chosen.values()}
    if len(splits) == 1 and not any(label.split for label in found.labels.values()):
        return {path: ClassFolder(folder.label, None) for path, folder in chosen.items()}
    return chosen


def _tables_note(
    found: TableLabels, folders: dict[str, ClassFolder | None], use_all: bool
) -> DatasetWarning:
    tables = ", ".join(found.tables[:_MAX_EXAMPLES])
    parts = [f"{len(found.labels)} images are labeled in {tables}"]
    if found.missing:
        parts.append(f"{found.missing} names in it are no image of the upload")
    different = [
        f"{path} ({folder.label}, {found.labels[path].label})"
        for path in found.labels
        if (folder := folders[path]) is not None and folder.label != found.labels[path].label
    ]
    if different and use_all:
        parts.append("their folders do not count")
    elif different:
        shown = ", ".join(different[:_MAX_EXAMPLES])
        parts.append(
            f"for {len(different)} of them the folder says otherwise, and counts: {shown}. Leave "
            "the table out, or put these images into one folder"
        )
    return DatasetWarning(code="labels_file", detail="; ".join(parts))


def _named_by_file(file: DatasetFile, layout: Layout) -> DatasetFile:
    """The file with the label that its name begins with, as in `cat.0.jpg` or `pug_12.jpg`."""
    if file.code == "hidden":
        return file
    label = label_in_name(file.path)
    if label is None:
        detail = "Its name is not a class and a number, such as cat.12.jpg."
        return file if file.status == "rejected" else _left_out(file, "no_label", detail)
    return _with_label(file, ClassFolder(label, layout.split(file.path)), layout)


def _with_label(
    file: DatasetFile,
    folder: ClassFolder | None,
    layout: Layout,
    tables: Sequence[str] = (),
) -> DatasetFile:
    if folder is not None:
        update = {"label": folder.label, "split": folder.split, "given_split": folder.split}
        return file.model_copy(update=update)
    if file.status == "rejected":
        return file
    if tables:
        detail = f"{tables[0]} does not name it. Add it there, or use folders named after classes."
        return _left_out(file, "no_label", detail)
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
            changed |= {file.id: file for file in resolve_copies(copies)}
    return [changed.get(file.id, file) for file in files]


def resolve_copies(copies: Sequence[DatasetFile]) -> list[DatasetFile]:
    """Leave out all but one of several admitted files with the same image."""
    labels = sorted({file.label or "" for file in copies})
    if len(labels) > 1:
        # Every copy has this text: the names of ten thousand classes would make gigabytes of it.
        shown = " and ".join(map(repr, labels[:_MAX_EXAMPLES]))
        more = f" and {len(labels) - _MAX_EXAMPLES} more" if len(labels) > _MAX_EXAMPLES else ""
        detail = f"The same image is labeled {shown}{more}."
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
