"""Properties of every split."""

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.training.datasets import DatasetFile, SplitName, frame_name
from models.datasets.report import digest
from models.datasets.splitting import Fractions, split_files, video_splits

CLASSES = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 60), min_size=1)
FRACTIONS = st.builds(Fractions, st.floats(0, 0.45), st.floats(0, 0.45), st.integers(0, 2**31 - 1))


def files(classes: dict[str, int]) -> list[DatasetFile]:
    return [
        DatasetFile(id=f"{label}{n}", path=f"{label}/{n}", status="admitted", label=label,
                    sha256=f"{label}{n:063d}")
        for label, count in classes.items()
        for n in range(count)
    ]  # fmt: skip


@given(CLASSES, FRACTIONS)
@settings(max_examples=100)
def test_every_class_is_split_by_the_fractions(
    classes: dict[str, int], fractions: Fractions
) -> None:
    found = split_files(files(classes), fractions)
    counts = Counter((one.label, one.split) for one in found)
    for label, count in classes.items():
        assert counts[label, "train"] >= 1, "every class is in train"
        for part, fraction in (("validation", fractions.validation), ("test", fractions.test)):
            assert abs(counts[label, part] - fraction * count) <= 1
            if fraction > 0 and count >= 5:
                assert counts[label, part] >= 1
    assert sum(counts.values()) == sum(classes.values())


@given(CLASSES, FRACTIONS, st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_split_depends_on_neither_order_nor_names(
    classes: dict[str, int], fractions: Fractions, order: random.Random
) -> None:
    first = files(classes)
    other = [one.model_copy(update={"id": f"x{one.id}", "path": f"y/{one.path}"}) for one in first]
    order.shuffle(other)
    assert digest(split_files(first, fractions)) == digest(split_files(other, fractions))


@given(CLASSES, FRACTIONS)
@settings(max_examples=50)
def test_additional_image_moves_few_others(classes: dict[str, int], fractions: Fractions) -> None:
    before = {one.id: one.split for one in split_files(files(classes), fractions)}
    more = {label: count + 1 for label, count in classes.items()}
    after = {one.id: one.split for one in split_files(files(more), fractions)}
    moved = Counter(one[0] for one in before if before[one] != after[one])
    assert all(count <= 4 for count in moved.values())


@given(CLASSES, FRACTIONS)
@settings(max_examples=50)
def test_given_splits_are_kept(classes: dict[str, int], fractions: Fractions) -> None:
    names = ("train", "validation", "test")
    given_splits = [
        one.model_copy(update={"given_split": names[n % 3]}) for n, one in enumerate(files(classes))
    ]
    found = split_files(given_splits, fractions)
    if any(one.given_split == "validation" for one in given_splits):
        assert [one.split for one in found] == [one.given_split for one in given_splits]
    tested = [one.id for one in given_splits if one.given_split == "test"]
    assert [one.id for one in found if one.split == "test"] == tested


def test_image_without_split_does_not_change_drawn_validation() -> None:
    """With given train and test, validation is drawn from train, also if an image has no split."""
    given_ones = [
        one.model_copy(update={"given_split": "test" if at < 10 else "train"})
        for at, one in enumerate(files({"a": 50}))
    ]
    free = files({"b": 1})
    before = Counter(one.split for one in split_files(given_ones, Fractions(0.15, 0.15, 1)))
    after = Counter(
        one.split for one in split_files([*given_ones, *free], Fractions(0.15, 0.15, 1))
    )
    assert (before["validation"], after["validation"], after["test"]) == (6, 6, 10)


@given(st.integers(1, 200), FRACTIONS, st.integers(0, 10))
@settings(max_examples=100)
def test_the_splits_of_a_video_are_stretches_with_the_shares_of_the_dataset(
    count: int, fractions: Fractions, gap: int
) -> None:
    splits = video_splits([], "a", range(count), fractions, gap)
    validation, test = fractions.counts(count)
    train, left_out = splits.count("train"), splits.count(None)
    order = ["train"] * train + [None] * left_out + ["validation"] * validation + ["test"] * test
    assert splits == order
    assert left_out <= gap
    assert train >= 1


def test_a_video_gives_each_split_what_the_class_lacks() -> None:
    fractions = Fractions(0.15, 0.15, 0)

    def given(splits: dict[SplitName, int], label: str = "a") -> list[DatasetFile]:
        names = [split for split, count in splits.items() for _ in range(count)]
        return [
            one.model_copy(update={"split": split, "given_split": split})
            for one, split in zip(files({label: len(names)}), names, strict=True)
        ]

    short = video_splits(given({"train": 3}), "a", range(3), fractions, 2)
    assert short == ["train", "validation", "test"]
    tested = video_splits(given({"test": 30}), "a", range(20), fractions, 0)
    assert Counter(tested) == {"train": 17, "validation": 3}
    other = video_splits(given({"test": 30}, "b"), "a", range(20), fractions, 0)
    assert Counter(other) == {"train": 14, "validation": 3, "test": 3}
    drawn = split_files(given({"train": 40}), fractions)
    assert "validation" not in video_splits(drawn, "a", range(20), fractions, 0)


def test_equal_frames_of_a_video_have_one_split() -> None:
    frames = [*range(10), *[3] * 30]
    splits = video_splits([], "a", frames, Fractions(0.15, 0.15, 0), 0)
    assert splits[6:] == ["validation", "validation", "test", "test", *["train"] * 30]


@given(st.integers(5, 200), FRACTIONS, st.integers(0, 10), st.sampled_from([None, "train"]))
@settings(max_examples=100)
def test_validation_that_is_drawn_from_a_video_is_its_end(
    count: int, fractions: Fractions, gap: int, split: SplitName | None
) -> None:
    """Validation is drawn from training, of photos and of a video."""
    photos = [one.model_copy(update={"given_split": "train"}) for one in files({"a": 40, "b": 40})]
    before = split_files(photos, fractions)
    stretches = video_splits(before, "a", range(count), fractions, gap, given=split)
    if "validation" in stretches:
        assert (split, {one.split for one in before}) == (None, {"train"})
        return  # nothing is drawn
    frames = [
        one.model_copy(update={"path": f"a/{frame_name('v', number)}", "given_split": stretch})
        for number, (one, stretch) in enumerate(zip(files({"a": count}), stretches, strict=True))
        if stretch is not None
    ]
    after = split_files([*frames, *before], fractions)
    found = [one.split for one in after[: len(frames)]]
    tested = stretches.count("test")
    training = len(found) - tested
    if training < 5:
        return  # its frames are drawn with the others
    assert after[len(frames) :] == before
    validation = fractions.without_test.counts(training)[0]
    train = training - validation
    assert found == ["train"] * train + ["validation"] * validation + ["test"] * tested
    assert tested == 0 or split is None
    if None in stretches:
        assert stretches.index(None) == train
    given_one = files({"b": 1})[0].model_copy(update={"given_split": "validation"})
    whole = video_splits([*before, given_one], "a", range(count), fractions, gap, given="train")
    assert whole == ["train"] * count
