"""Warnings about an upload whose folders look as if they meant something else."""

from collections import Counter
from collections.abc import Mapping, Sequence

from contracts.training.datasets import DatasetFile, DatasetWarning
from models.datasets.layout import (
    FILLER,
    ClassFolder,
    Layout,
    label_in_name,
    looks_nested,
    split_of,
)

_MIN_CLASSES = 2
_MIN_NAMED = 2  # images of a class
_MAX_EXAMPLES = 3
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")


def layout_notes(
    layout: Layout, folders: Mapping[str, ClassFolder | None], files: Sequence[DatasetFile]
) -> list[DatasetWarning]:
    """What looks wrong.

    Args:
        folders: What the folder of each image means, by the image's path.
        files: All files of the upload.
    """
    packed = [file.path for file in files if file.path.lower().endswith(_ARCHIVES)]
    if not folders:
        return [_note(f"it contains archives ({packed[0]}): upload these")] if packed else []
    classes = sorted({folder.label for folder in folders.values() if folder is not None})
    if all(name.lower() in FILLER or split_of(name) for name in classes):
        return [_note(_without_classes(classes, folders))]
    labeled = [path for path, folder in folders.items() if folder is not None]
    if inner := looks_nested(layout, labeled):
        return [
            _note(
                "all images lie two or more levels below the folders that were taken for classes "
                f"({', '.join(classes[:_MAX_EXAMPLES])}). If the inner folders are the classes, "
                f"such as {', '.join(inner)}, pack those without the outer ones"
            )
        ]
    return []


def _without_classes(classes: Sequence[str], paths: Mapping[str, object]) -> str:
    where = "no image is in the folder of a class"
    if classes:
        where = f"the folders are called {', '.join(classes[:_MAX_EXAMPLES])}"
    detail = (
        f"{where}: put each image into a folder named after its class, or add a labels.csv "
        "with the columns file and label"
    )
    named = Counter(label for path in paths if (label := label_in_name(path)) is not None)
    if len(named) < _MIN_CLASSES or min(named.values()) < _MIN_NAMED:
        return detail
    shown = ", ".join(sorted(named)[:_MAX_EXAMPLES])
    return (
        f"{detail}. If the file names begin with the classes ({shown}), send labels_from=file_names"
    )


def _note(detail: str) -> DatasetWarning:
    return DatasetWarning(code="layout", detail=detail)
