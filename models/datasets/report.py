"""Counts of a dataset, warnings about it, and whether a training can use it."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Protocol

from contracts.errors import PayloadTooLarge
from contracts.settings import MIB
from contracts.training.datasets import (
    MAX_LISTED_REJECTED,
    DatasetFile,
    DatasetInfo,
    DatasetWarning,
    RejectedFile,
    SplitName,
)
from models.datasets.dataset import SPLITS
from models.datasets.splitting import Splittable

MIN_CLASSES = 2
MIN_IMAGES = 5
UPLOAD_NOTES = frozenset({"guessed_names", "layout", "labels_file"})
"""Codes of warnings about an upload as a whole, which stay when images are added."""

_FEW_IMAGES = 20
_IMBALANCE = 3.0
_MAX_NAMES = 5
# Of all classes together: a hundred thousand have three megabytes. All names are read and sent, at
# once, whenever datasets are listed; a hundred megabytes would stop the process for seconds.
_MAX_NAMES_BYTES = 4 * MIB


class Countable(Splittable, Protocol):
    """What a report needs to know of a file."""

    @property
    def split(self) -> SplitName | None: ...
    @property
    def size(self) -> int: ...
    @property
    def code(self) -> str | None: ...


def refusals(files: Iterable[DatasetFile]) -> Counter[str]:
    """How many files were refused for each reason; those that were admitted count under ""."""
    return Counter((file.code or "other") if file.status == "rejected" else "" for file in files)


def report(
    dataset_id: str,
    name: str,
    files: Sequence[Countable],
    entry: Callable[[int], DatasetFile],
    *,
    seed: int,
    revision: int,
    created_at: datetime,
    notes: Sequence[DatasetWarning] = (),
) -> DatasetInfo:
    """Summarize a dataset from its files, whose splits have been assigned.

    Args:
        entry: The whole entry of the file at a place.
        notes: Warnings about the upload as a whole.

    Raises:
        PayloadTooLarge: The names of its classes are too long together.
    """
    admitted = [file for file in files if file.status == "admitted"]
    left_out = [place for place, file in enumerate(files) if file.status == "rejected"]
    rejected = [files[place] for place in left_out]
    classes = dict(sorted(Counter(file.label or "" for file in admitted).items()))
    _require_short_names(classes)
    in_splits = Counter(file.split for file in admitted)
    splits: dict[SplitName, int] = {split: in_splits[split] for split in SPLITS}
    reason = _not_trainable_reason(classes, admitted)
    return DatasetInfo(
        id=dataset_id,
        name=name,
        digest=digest(admitted),
        revision=revision,
        classes=classes,
        splits=splits,
        trainable=reason is None,
        reason=reason,
        warnings=[*notes, *_warnings(classes, splits, admitted, rejected)],
        rejected=[_rejected_file(entry(place)) for place in left_out[:MAX_LISTED_REJECTED]],
        rejected_count=len(rejected),
        size=sum(file.size for file in admitted),
        seed=seed,
        created_at=created_at,
    )


def _require_short_names(classes: Iterable[str]) -> None:
    if sum(len(name.encode()) for name in classes) > _MAX_NAMES_BYTES:
        raise PayloadTooLarge(
            f"The names of its classes have more than {_MAX_NAMES_BYTES // MIB} MB together. Send "
            "fewer classes, or shorter names."
        )


def digest(files: Sequence[Countable]) -> str:
    """`sha256:` and the hash of labels, splits and images; independent of names and order."""
    # Each line is the JSON of the three; for 100,000 files, `json.dumps` would take long.
    labels = {label: json.dumps(label) for label in {file.label for file in files}}
    lines = [f'[{labels[file.label]}, "{file.split}", "{file.sha256}"]' for file in files]
    lines.sort()
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _not_trainable_reason(classes: dict[str, int], admitted: Sequence[Countable]) -> str | None:
    if len(classes) < MIN_CLASSES:
        return f"It has {len(classes)} of at least {MIN_CLASSES} classes. Add images of others."
    small = [name for name, count in classes.items() if count < MIN_IMAGES]
    if small:
        return (
            f"A class needs at least {MIN_IMAGES} images; {_listed(small)} "
            "has fewer. Add images to it, or leave it out."
        )
    trained = {file.label for file in admitted if file.split == "train"}
    untrained = [name for name in classes if name not in trained]
    if untrained:
        return f"No image of {_listed(untrained)} is for training. Put some into train."
    return None


def _warnings(
    classes: dict[str, int],
    splits: dict[SplitName, int],
    admitted: Sequence[Countable],
    rejected: Sequence[Countable],
) -> list[DatasetWarning]:
    codes = Counter(file.code for file in rejected)
    empty = sorted({file.label for file in rejected if file.label} - classes.keys())
    few = [name for name, count in classes.items() if count < _FEW_IMAGES]
    misnamed = sum(file.code == "misnamed" for file in admitted)
    drawn = sum(file.given_split == "train" and file.split != "train" for file in admitted)
    spellings = Counter(name.casefold() for name in classes)
    similar = [name for name in classes if spellings[name.casefold()] > 1]
    ratio = max(classes.values(), default=1) / min(classes.values(), default=1)
    leaks, conflicts = codes["leak"], codes["label_conflict"]
    # Code, condition, detail.
    warnings: list[tuple[str, object, str]] = [
        ("imbalance", ratio >= _IMBALANCE, f"{ratio:.0f}:1; class weights will be used"),
        (
            "leak",
            leaks,
            f"{leaks} images were in several splits; they stay in the one that tests, and were "
            "left out of the other",
        ),
        (
            "label_conflict",
            conflicts,
            f"{conflicts} files are the same images under several labels; all were left out",
        ),
        ("few", few, f"fewer than {_FEW_IMAGES} images: {_listed(few)}"),
        ("empty_class", empty, f"no image of it could be used: {_listed(empty)}"),
        (
            "similar_names",
            similar,
            f"the names of these classes differ only in case: {_listed(similar)}",
        ),
        ("misnamed", misnamed, f"{misnamed} files are not what their name says; they were kept"),
        ("validation_drawn", drawn, f"{drawn} images of train are used for validation"),
        (
            "no_validation",
            admitted and not splits["validation"],
            "no image is for validation",
        ),
        (
            "no_test",
            admitted and not splits["test"],
            "no image is for the test, so there will be no test accuracy",
        ),
    ]
    return [
        DatasetWarning(code=code, detail=detail) for code, applies, detail in warnings if applies
    ]


def _rejected_file(file: DatasetFile) -> RejectedFile:
    return RejectedFile(
        path=file.path, code=file.code or "", detail=file.detail or "", action=file.action or ""
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
