"""Determines what the folders of an upload mean: which one names the class, which one the split."""

from collections.abc import Iterable
from dataclasses import dataclass

from models.datasets.dataset import Split

SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
MAX_LABEL_LENGTH = 128


@dataclass(frozen=True, slots=True)
class ClassFolder:
    """The class and the split that the folder of an image implies.

    Attributes:
        split: None if the upload has no folders for splits.
    """

    label: str
    split: Split | None


@dataclass(frozen=True, slots=True)
class Layout:
    """How the paths of one upload are read.

    Attributes:
        skip: Number of leading folders that contain everything and mean nothing.
        has_splits: Whether the next folder names a split.
    """

    skip: int
    has_splits: bool

    @classmethod
    def of(cls, paths: Iterable[str]) -> "Layout":
        """The layout that the paths of the images have in common."""
        folders = [path.split("/")[:-1] for path in paths]
        skip = 0
        while _is_wrapper(folders, skip):
            skip += 1
        tops = {parts[skip].lower() for parts in folders if len(parts) > skip}
        splits = {SPLIT_FOLDERS[top] for top in tops if top in SPLIT_FOLDERS}
        # A class may be called `test`. Next to `train`, or if all folders are splits, it is one.
        has_splits = "train" in splits or bool(splits and tops <= SPLIT_FOLDERS.keys())
        nested = any(
            len(parts) > skip + 1 for parts in folders if _split_of(parts, skip) is not None
        )
        return cls(skip, has_splits and nested)

    def find(self, path: str) -> ClassFolder | None:
        """Class and split of one image; None if its folder does not name a class."""
        parts = path.split("/")[:-1][self.skip :]
        split = None
        if self.has_splits:
            split = _split_of(parts, 0)
            if split is None:
                return None
            parts = parts[1:]
        label = parts[0].strip() if parts else ""
        if not label or len(label) > MAX_LABEL_LENGTH or not label.isprintable():
            return None
        return ClassFolder(label, split)


def _split_of(parts: list[str], depth: int) -> Split | None:
    return SPLIT_FOLDERS.get(parts[depth].lower()) if len(parts) > depth else None


def _is_wrapper(folders: list[list[str]], depth: int) -> bool:
    """Whether all images are in one folder at that depth, which has subfolders and is no split."""
    # Images next to that folder have no class in any case.
    tops = {parts[depth] for parts in folders if len(parts) > depth}
    if len(tops) != 1:
        return False
    (top,) = tops
    return top.lower() not in SPLIT_FOLDERS and any(len(parts) > depth + 1 for parts in folders)
