"""The counts of a dataset, what may spoil a training of it, and whether there can be one."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from contracts.training.datasets import (
    MOST_LISTED_REJECTED,
    DatasetFile,
    DatasetInfo,
    DatasetWarning,
    RejectedFile,
    SplitName,
)
from models.datasets.dataset import SPLITS

LEAST_CLASSES = 2
LEAST_PICTURES = 5
_FEW = 20
_IMBALANCE = 3.0
_NAMED = 5


def report(
    dataset_id: str,
    name: str,
    files: Sequence[DatasetFile],
    *,
    seed: int,
    revision: int,
    created_at: datetime,
) -> DatasetInfo:
    """All that is said of a dataset."""
    admitted = [one for one in files if one.status == "admitted"]
    rejected = [one for one in files if one.status == "rejected"]
    classes = dict(sorted(Counter(one.label or "" for one in admitted).items()))
    in_splits = Counter(one.split for one in admitted)
    splits: dict[SplitName, int] = {split: in_splits[split] for split in SPLITS}
    reason = _untrainable(classes, admitted)
    return DatasetInfo(
        id=dataset_id,
        name=name,
        digest=digest(admitted),
        revision=revision,
        classes=classes,
        splits=splits,
        trainable=reason is None,
        reason=reason,
        warnings=_warnings(classes, splits, admitted, rejected),
        rejected=[_told(one) for one in rejected[:MOST_LISTED_REJECTED]],
        rejected_count=len(rejected),
        size=sum(one.size for one in admitted),
        seed=seed,
        created_at=created_at,
    )


def digest(files: Sequence[DatasetFile]) -> str:
    """`sha256:` and the hash of labels, splits and pictures; names and order play no part."""
    lines = sorted(json.dumps([one.label, one.split, one.sha256]) for one in files)
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _untrainable(classes: dict[str, int], admitted: Sequence[DatasetFile]) -> str | None:
    if len(classes) < LEAST_CLASSES:
        return f"It has {len(classes)} of at least {LEAST_CLASSES} classes. Add pictures of others."
    small = [name for name, count in classes.items() if count < LEAST_PICTURES]
    if small:
        return (
            f"A class needs {LEAST_PICTURES} pictures at least; {_named(small)} "
            "has fewer. Add pictures to it, or leave it out."
        )
    learned = {one.label for one in admitted if one.split == "train"}
    unseen = [name for name in classes if name not in learned]
    if unseen:
        return f"No picture of {_named(unseen)} is for training. Put some into train."
    return None


def _warnings(
    classes: dict[str, int],
    splits: dict[SplitName, int],
    admitted: Sequence[DatasetFile],
    rejected: Sequence[DatasetFile],
) -> list[DatasetWarning]:
    """Each: its code, whether there is cause for it, and what is said then."""
    codes = Counter(one.code for one in rejected)
    gone = sorted({one.label for one in rejected if one.label} - classes.keys())
    few = [name for name, count in classes.items() if LEAST_PICTURES <= count < _FEW]
    misnamed = sum(one.code == "misnamed" for one in admitted)
    drawn = sum(one.given_split == "train" and one.split != "train" for one in admitted)
    ratio = max(classes.values(), default=1) / min(classes.values(), default=1)
    leaks, conflicts = codes["leak"], codes["label_conflict"]
    said: list[tuple[str, object, str]] = [
        ("imbalance", ratio >= _IMBALANCE, f"{ratio:.0f}:1; class weights will be used"),
        (
            "leak",
            leaks,
            f"{leaks} pictures stood in several splits; they stay in the one that tests, and were "
            "left out of the other",
        ),
        (
            "label_conflict",
            conflicts,
            f"{conflicts} files are the same pictures under several labels; all were left out",
        ),
        ("few", few, f"fewer than {_FEW} pictures: {_named(few)}"),
        ("empty_class", gone, f"no picture of it could be used: {_named(gone)}"),
        ("misnamed", misnamed, f"{misnamed} files are not what their name says; they were kept"),
        ("validation_drawn", drawn, f"{drawn} pictures of train are used for validation"),
        (
            "no_validation",
            admitted and not splits["validation"],
            "no picture is for validation",
        ),
        (
            "no_test",
            admitted and not splits["test"],
            "no picture is for the test, so there will be no test accuracy",
        ),
    ]
    return [DatasetWarning(code=code, detail=detail) for code, cause, detail in said if cause]


def _told(one: DatasetFile) -> RejectedFile:
    return RejectedFile(
        path=one.path, code=one.code or "", detail=one.detail or "", action=one.action or ""
    )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
