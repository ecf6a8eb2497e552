"""Charts can be drawn for any number of classes and any names."""

import io

import numpy as np
import pytest
from PIL import Image

from contracts.training.training_options import Augmentation
from contracts.training.training_result import Mistake
from models.training.report.augmentation_sheet import augmentation_sheet
from models.training.report.confusion_chart import confusion_chart
from models.training.report.curves_chart import curves_chart
from models.training.report.filters_animation import MAX_FRAMES, filters_animation
from models.training.report.mistakes_sheet import ExplainedMistake, mistakes_sheet, overlay
from models.training.trained import FilterFrame

ODD_NAMES = ["$x", "a_b^{", "", "<b>", "a" * 300, "100 %"]


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("classes", [2, 70])
def test_confusion_matrix_grows_with_its_classes(classes: int) -> None:
    names = [ODD_NAMES[n % len(ODD_NAMES)] for n in range(classes)]
    counts = np.eye(classes, dtype=np.int64) * 9 + np.eye(classes, k=1, dtype=np.int64)
    data = confusion_chart(counts, names, "test")
    assert 400 < opened(data).width <= 2600
    assert len(data) < 200_000


def test_curves_work_with_one_epoch_and_without_validation() -> None:
    row = {"epoch": 1, "phase": "head", "loss": 0.5, "accuracy": 0.8}
    single = opened(curves_chart([row], {"head": 1}))
    both = [row, {**row, "phase": "finetune", "val_loss": 0.4, "val_accuracy": 0.9}]
    assert single.size == opened(curves_chart(both, {"head": 1, "finetune": 1})).size == (1000, 420)


def test_overlay_changes_only_where_the_grid_is_positive() -> None:
    grid = np.zeros((7, 7), np.float32)
    image = np.full((70, 70, 3), 100, np.uint8)
    assert np.array_equal(overlay(image, grid), image)
    grid[0, 0] = 1
    seen = overlay(image, grid)
    assert seen[0, 0, 0] != 100
    assert np.array_equal(seen[40:, 40:], image[40:, 40:])


def test_mistakes_are_in_rows_of_three() -> None:
    mistake = Mistake(
        name="a.jpg", sha256="0", label=ODD_NAMES[0], predicted=ODD_NAMES[4],
        probability=0.99, label_probability=0.01,
    )  # fmt: skip
    explained = ExplainedMistake(
        mistake, np.zeros((28, 28, 3), np.uint8), np.zeros((7, 7), np.float32)
    )
    heights = [opened(mistakes_sheet([explained] * count)).height for count in (0, 3, 4)]
    assert heights == sorted(heights)
    assert len(set(heights)) == 3
    single = np.asarray(opened(mistakes_sheet([explained])).convert("RGB"))
    assert (single[:, -8:] == 255).all(), "even there, the title fits"


@pytest.mark.parametrize("channels", [1, 3, 16])
def test_animation_is_thinned_and_shows_changes(channels: int) -> None:
    rng = np.random.default_rng(0)
    start, move = rng.normal(0, 1, (2, 3, 3, channels, 8)).astype(np.float32)
    frames = [FilterFrame(step, start + move * step / 10) for step in range(0, 100, 1)]
    animation = opened(filters_animation(frames, "conv1"))
    assert animation.n_frames == MAX_FRAMES  # type: ignore[attr-defined]
    first = np.asarray(animation.convert("RGB"))
    animation.seek(MAX_FRAMES - 1)
    assert (np.asarray(animation.convert("RGB"))[40:] != first[40:]).mean() > 0.1


def test_animation_works_with_one_frame_and_zero_kernels() -> None:
    dead = FilterFrame(0, np.zeros((3, 3, 3, 4), np.float32))
    assert opened(filters_animation([dead], "conv1")).width >= 260


def test_augmentation_shows_each_option_and_sixteen_draws() -> None:
    pixels = np.random.default_rng(8).integers(0, 256, (24, 40, 3), np.uint8)
    flips = Augmentation(horizontal_flip=True, fill_mode="wrap")
    sheet = augmentation_sheet(pixels, flips, 8)
    assert sheet == augmentation_sheet(pixels, flips, 8) != augmentation_sheet(pixels, flips, 9)
    every = Augmentation(
        rotation=9, width_shift=0.1, height_shift=0.1, shear=0.1, zoom=(0.8, 1.2),
        horizontal_flip=True, vertical_flip=True, brightness=0.1, channel_shift=5,
    )  # fmt: skip
    # The original and nine options take two rows instead of one.
    assert opened(augmentation_sheet(pixels, every, 8)).height > opened(sheet).height
