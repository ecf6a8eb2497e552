"""What the folders of an upload mean: which one names the class, and which one the split."""

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
MOST_LABEL = 128


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path puts a picture.

    Attributes:
        label: Its class.
        split: As its folder says; None where folders are classes alone.
    """

    label: str
    split: Split | None


@dataclass(frozen=True, slots=True)
class Layout:
    """How the paths of one upload are read.

    Attributes:
        skip: Folders at the front that only hold everything.
        has_splits: Whether the next folder is a split.
    """

    skip: int
    has_splits: bool

    @classmethod
    def of(cls, paths: Iterable[str]) -> "Layout":
        """The layout that the paths of the pictures have in common."""
        folders = [path.split("/")[:-1] for path in paths]
        skip = 0
        while _is_wrapper(folders, skip):
            skip += 1
        tops = {parts[skip].lower() for parts in folders if len(parts) > skip}
        splits = {SPLIT_FOLDERS[top] for top in tops if top in SPLIT_FOLDERS}
        # A class may be called `test`; beside `train`, or alone with other splits, it is a split.
        has_splits = "train" in splits or bool(splits and tops <= SPLIT_FOLDERS.keys())
        nested = any(
            len(parts) > skip + 1 for parts in folders if _split_of(parts, skip) is not None
        )
        return cls(skip, has_splits and nested)

    def place(self, path: str) -> Place | None:
        """Class and split of one picture; None where its folder names none."""
        parts = path.split("/")[:-1][self.skip :]
        split = None
        if self.has_splits:
            split = _split_of(parts, 0)
            if split is None:
                return None
            parts = parts[1:]
        label = parts[0].strip() if parts else ""
        if not label or len(label) > MOST_LABEL or not label.isprintable():
            return None
        return Place(label, split)


def _split_of(parts: list[str], at: int) -> Split | None:
    return SPLIT_FOLDERS.get(parts[at].lower()) if len(parts) > at else None


def _is_wrapper(folders: list[list[str]], at: int) -> bool:
    """Whether all lie in the one same folder, which is no split, with folders below it."""
    tops = {parts[at] if len(parts) > at else "" for parts in folders}
    if len(tops) != 1 or "" in tops:
        return False
    (top,) = tops
    return top.lower() not in SPLIT_FOLDERS and any(len(parts) > at + 1 for parts in folders)
