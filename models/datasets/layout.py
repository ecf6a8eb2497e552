"""Determines what the folders of an upload mean: which one names the class, which one the split."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os.path import commonprefix

from contracts.names import composed, is_printable
from models.datasets.dataset import Split

_SPLITS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
# These mean a split only beside a folder that is called `train` in one way or another.
_SPLITS_BESIDE_TRAIN: dict[str, Split] = {
    "dev": "validation",
    "devel": "validation",
    "development": "validation",
    "validate": "validation",
    "eval": "test",
    "evaluation": "test",
    "holdout": "test",
}
FILLER = frozenset({"set", "data", "dataset", "image", "images", "img", "imgs", "seg", "split"})
MAX_LABEL_LENGTH = 128
_MAX_SENT_LENGTH = 4 * MAX_LABEL_LENGTH  # with accents that are not composed yet, and spaces
_MAX_EXAMPLES = 3


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
        inner: Folders that contain everything below a split, by split folder.
        class_first: Whether the splits are within the folders of the classes.
        prefix: What the folders of all splits begin with, as in `pets_train` and `pets_test`.
    """

    skip: int
    has_splits: bool
    inner: dict[str, tuple[str, ...]]
    class_first: bool = False
    prefix: str = ""

    @classmethod
    def of(cls, paths: Iterable[str]) -> "Layout":
        """The layout that the paths of the images have in common."""
        folders = [path.split("/")[:-1] for path in paths]
        skip = 0
        while _is_wrapper(folders, skip):
            skip += 1
        folders = [parts[skip:] for parts in folders if len(parts) > skip]
        prefix = _prefix_of_splits({parts[0] for parts in folders})
        short = [[part.removeprefix(prefix) for part in parts] for parts in folders]
        nested = any(len(parts) > 1 for parts in short if split_of(parts[0]) is not None)
        if nested and _are_splits({parts[0] for parts in short}):
            return cls(skip, True, _inner_folders(short), prefix=prefix)
        return cls(skip, False, {}, _is_class_first(folders))

    def find(self, path: str) -> ClassFolder | None:
        """Class and split of one image; None if its folder does not name a class."""
        parts = path.split("/")[:-1][self.skip :]
        split = None
        if self.has_splits:
            top, *short = [part.removeprefix(self.prefix) for part in parts] or [""]
            split = split_of(top)
            if split is None:
                return None
            inner = self.inner.get(top, ())
            parts = parts[1:]
            if tuple(short[: len(inner)]) == inner:
                parts = parts[len(inner) :]
        elif self.class_first:
            split = split_of(parts[1]) if len(parts) > 1 else None
            if split is None:
                return None
        label = checked_label(parts[0]) if parts else None
        return None if label is None else ClassFolder(label, split)

    def split(self, path: str) -> Split | None:
        """The split that a folder of an image names, although none names its class."""
        parts = path.split("/")[:-1][self.skip :]
        named = (split_of(part.removeprefix(self.prefix)) for part in parts)
        return next((split for split in named if split is not None), None)

    def depth(self, path: str) -> int:
        """How many folders lie between the folder of the class and the image."""
        parts = path.split("/")[:-1][self.skip :]
        if self.has_splits and parts:
            inner = self.inner.get(parts[0].removeprefix(self.prefix), ())
            return len(parts) - 2 - len(inner)
        return len(parts) - (2 if self.class_first else 1)


def checked_label(name: str) -> str | None:
    """A folder's or a table's name for a class as it is used; None if it cannot be one."""
    if len(name) > _MAX_SENT_LENGTH:
        return None  # before it is composed, which takes milliseconds, for each of a million rows
    label = composed(name).strip()
    if not label or len(label) > MAX_LABEL_LENGTH or not is_printable(label):
        return None
    return label


def split_of(name: str, *, strict: bool = False) -> Split | None:
    """The split that a folder or a value of a table names, such as `Train` or `test_set1`.

    Args:
        strict: Whether names are left out that also mean other things, such as `dev`.
    """
    plain = name.lower().rstrip("0123456789")
    words = [word for word in re.split(r"[^a-z]+", plain) if word and word not in FILLER]
    if len(words) != 1:
        return None
    word = words[0].removesuffix("set") if words[0].endswith("set") else words[0]
    found = _SPLITS.get(word)
    return found if strict or found is not None else _SPLITS_BESIDE_TRAIN.get(word)


def label_in_name(path: str) -> str | None:
    """The class that the name of a file begins with, as in `cat.0.jpg` or `pug_12.jpg`."""
    stem = path.rpartition("/")[2].rpartition(".")[0]
    found = re.fullmatch(r"(.*[^\W\d_])[\s._-]*\(?\d+\)?", stem)
    return checked_label(found[1]) if found else None


def looks_nested(layout: Layout, paths: Sequence[str]) -> list[str]:
    """Some folders in which all images lie, if these are below the classes and may be them."""
    if not paths or min(map(layout.depth, paths)) < 1:
        return []
    inner = Counter(path.rsplit("/", 1)[0] for path in paths)
    names = {folder.rsplit("/", 1)[-1] for folder in inner}
    # One name for all, such as `images`, is no class.
    return sorted(inner)[:_MAX_EXAMPLES] if len(names) > 1 else []


def _are_splits(tops: set[str]) -> bool:
    """Whether the folders are splits, or those among them that may be."""
    # A class may be called `test`. Next to `train`, or if all folders are splits, it is one.
    found = {split_of(top, strict=True) for top in tops} - {None}
    return "train" in found or bool(tops and all(split_of(top, strict=True) for top in tops))


def _prefix_of_splits(tops: set[str]) -> str:
    """What all of them begin with if the rest names a split; nothing otherwise."""
    if len(tops) < 2:
        return ""
    common = commonprefix(sorted(tops))  # noqa: RUF071 - of names, not of paths
    prefix = common.removesuffix(re.split(r"[\W_]", common)[-1])
    splits = {split_of(top.removeprefix(prefix), strict=True) for top in tops}
    return prefix if "train" in splits and None not in splits else ""


def _inner_folders(folders: Sequence[list[str]]) -> dict[str, tuple[str, ...]]:
    """What lies between a split and its classes, as in `training_set/training_set/cats`."""
    inner: dict[str, tuple[str, ...]] = {}
    for top, all_below in _by_top(folders).items():
        if split_of(top) is None:
            continue
        below = all_below
        skipped: list[str] = []
        while True:
            names = {parts[0] if parts else "" for parts in below}
            if len(names) != 1 or not (name := names.pop()):
                break
            again = split_of(name) == split_of(top)
            if not again and not (name.lower() in FILLER and any(len(p) > 1 for p in below)):
                break
            skipped.append(name)
            below = [parts[1:] for parts in below]
        inner[top] = tuple(skipped)
    return inner


def _is_class_first(folders: Sequence[list[str]]) -> bool:
    """Whether each class has folders for the splits, as in `cat/train` and `cat/test`."""
    if not folders or any(len(parts) < 2 for parts in folders):
        return False
    names = ({parts[0] for parts in below} for below in _by_top(folders).values())
    return all(_are_splits(found) and all(map(split_of, found)) for found in names)


def _by_top(folders: Sequence[list[str]]) -> dict[str, list[list[str]]]:
    """What is below each of the top folders, of which a hostile upload has a hundred thousand."""
    below: dict[str, list[list[str]]] = defaultdict(list)
    for parts in folders:
        below[parts[0]].append(parts[1:])
    return below


def _is_wrapper(folders: Sequence[list[str]], depth: int) -> bool:
    """Whether all images are in one folder at that depth, which has subfolders and is no split."""
    # Images next to that folder have no class in any case.
    tops = {parts[depth] for parts in folders if len(parts) > depth}
    if len(tops) != 1:
        return False
    (top,) = tops
    return split_of(top, strict=True) is None and any(len(parts) > depth + 1 for parts in folders)
