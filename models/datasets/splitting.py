"""A stratified split into training, validation and test that depends only on content and seed.

Within each class the images are ordered by a hash of the seed and their content. The first of them
go to test, the next to validation. The same images and seed therefore give the same split on every
machine and in any order, and an additional image moves few of the others.

Frames of one video resemble their neighbors too much to be drawn one by one. Their splits are
stretches of the video: `video_splits`.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from contracts.training.datasets import DatasetFile, FileStatus, SplitName
from models.datasets.dataset import Split

_MIN_VIDEO = 5  # frames; fewer may be images that are called so by chance


class Splittable(Protocol):
    """What the split of a file depends on."""

    @property
    def status(self) -> FileStatus: ...
    @property
    def label(self) -> str | None: ...
    @property
    def given_split(self) -> SplitName | None: ...
    @property
    def sha256(self) -> str | None: ...
    @property
    def frame(self) -> tuple[str, int] | None: ...


class SplitFile(Splittable, Protocol):
    """A file that has its split."""

    @property
    def split(self) -> SplitName | None: ...


@dataclass(frozen=True, slots=True)
class Fractions:
    """How a dataset is split.

    Attributes:
        validation: Fraction of each class used for validation, 0 to 0.9.
        test: Fraction of each class used for the test.
        seed: Another seed gives another split.
    """

    validation: float
    test: float
    seed: int

    def counts(self, images: int) -> tuple[int, int]:
        """Images of a class for validation and test; at least one remains for training."""
        test = min(_rounded(self.test, images), max(0, images - 1))
        validation = _rounded(self.validation, images)
        return min(validation, max(0, images - 1 - test)), test

    @property
    def without_test(self) -> "Fractions":
        """The same, but for images that are given to training."""
        return replace(self, test=0.0)


def _rounded(fraction: float, images: int) -> int:
    """The nearest whole number; at least 1 for a class of five or more images."""
    count = int(fraction * images + 0.5)
    return max(count, 1) if fraction > 0 and images >= 5 else count


def split_files(files: Sequence[DatasetFile], fractions: Fractions) -> list[DatasetFile]:
    """Assign a split to every admitted file, as `draw_splits`."""
    splits = draw_splits(files, fractions)
    return [
        file if file.split == split else file.model_copy(update={"split": split})
        for file, split in zip(files, splits, strict=True)
    ]


def draw_splits(files: Sequence[Splittable], fractions: Fractions) -> list[Split | None]:
    """The split of every file; a rejected one has the split that it was given.

    Given splits are kept. If none of them is validation, some of the training images are used for
    validation; the test split is never taken from them. Of each video that is its end.
    """
    splits = [file.given_split for file in files]
    admitted = [place for place, file in enumerate(files) if file.status == "admitted"]
    free = [place for place in admitted if splits[place] is None]
    has_validation = any(splits[place] == "validation" for place in admitted)
    training = [] if has_validation else [at for at in admitted if splits[at] == "train"]
    _draw(splits, files, free, fractions)
    fractions = fractions.without_test
    _draw(splits, files, _without_videos(splits, files, training, fractions), fractions)
    return splits


def video_splits(
    listed: Iterable[SplitFile],
    label: str,
    frames: Sequence[Hashable],
    fractions: Fractions,
    gap: int,
    *,
    given: Split | None = None,
) -> list[Split | None]:
    """The split of each frame of a video that is added to a class, in the video's order.

    The last frames go to test, as many as the class lacks, those before them to validation, and the
    others to training, except for those just before, which are left out: None. Equal frames have
    the same split. What `draw_splits` will take for validation is given to training here.

    Args:
        listed: All files of the dataset.
        frames: Equal if their images are.
        gap: Frames to leave out between training and the rest; at most a tenth of the training's.
        given: The split that the client named.
    """
    if given in {"validation", "test"}:
        return [given] * len(frames)
    files = [file for file in listed if file.status == "admitted"]
    have = Counter(file.split for file in files if file.label == label)
    count = len(places := dict.fromkeys(frames))
    validation, test = fractions.counts(have.total() + count)
    # A class without training images needs some of these.
    most = (count, count) if have["train"] else fractions.counts(count)
    test = min(max(0, test - have["test"]), most[1])
    validation = min(max(0, validation - have["validation"]), most[0], count - test)
    part: Split = "validation"
    left_out = min(gap, (count - test - validation) // 10)
    if given or any(file.given_split == "train" and file.split == part for file in files):
        part, test = "train", 0 if given else test
        left_out = min(gap, (count - test) // 10)
        rest = count - test - left_out
        is_drawn = rest >= _MIN_VIDEO and all(file.given_split != "validation" for file in files)
        validation = fractions.without_test.counts(rest)[0] if is_drawn else 0
    if not validation + test:
        left_out = 0
    train = count - test - validation - left_out
    stretches: list[tuple[Split | None, int]] = [
        ("train", train),
        (None, left_out),
        (part, validation),
        ("test", test),
    ]
    splits = [split for split, length in stretches for _ in range(length)]
    split_of = dict(zip(places, splits, strict=True))
    return [split_of[frame] for frame in frames]


def _without_videos(
    splits: list[Split | None],
    files: Sequence[Splittable],
    places: Sequence[int],
    fractions: Fractions,
) -> list[int]:
    """Use the end of each video at `places` for validation; return the other places."""
    videos: dict[tuple[str | None, str], list[tuple[int, int]]] = defaultdict(list)
    for place in places:
        if frame := files[place].frame:
            videos[files[place].label, frame[0]].append((frame[1], place))
    done: set[int] = set()
    for frames in videos.values():
        if len(frames) >= _MIN_VIDEO:
            order = [place for _, place in sorted(frames)]
            done.update(order)
            for place in order[len(order) - fractions.counts(len(order))[0] :]:
                splits[place] = "validation"
    return [place for place in places if place not in done]


def _draw(
    splits: list[Split | None],
    files: Sequence[Splittable],
    places: Sequence[int],
    fractions: Fractions,
) -> None:
    """Draw the splits of the files at `places`, each class by itself."""
    classes: dict[str, list[int]] = defaultdict(list)
    for place in places:
        classes[files[place].label or ""].append(place)
    for members in classes.values():
        validation, test = fractions.counts(len(members))
        members.sort(key=lambda place: _rank(files[place], fractions.seed))
        for index, place in enumerate(members):
            splits[place] = (
                "test" if index < test else "validation" if index < test + validation else "train"
            )


def _rank(file: Splittable, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{file.sha256}".encode()).hexdigest()
