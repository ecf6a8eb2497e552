from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from contracts.training.training_options import Augmentation
from models.training.data.augmentation import ImageTransforms, apply_transforms, draw_transforms

SIZE = (12, 16)


def images(count: int = 6) -> Any:
    return np.random.default_rng(1).integers(0, 256, (count, *SIZE, 3), np.uint8)


def augment(options: Augmentation, given: Any, seed: int = 8) -> tuple[Any, ImageTransforms]:
    drawn = draw_transforms(options, len(given), SIZE, np.random.default_rng(seed))
    result = apply_transforms(given, drawn.affine, drawn.brightness, drawn.offset, options)
    return result.numpy(), drawn


def test_defaults_change_nothing() -> None:
    given = images()
    np.testing.assert_array_equal(augment(Augmentation(), given)[0], given)
    assert not Augmentation(fill_mode="wrap").active


@pytest.mark.parametrize(("option", "axis"), [("horizontal_flip", 2), ("vertical_flip", 1)])
def test_flip_mirrors_half_of_the_images_exactly(option: str, axis: int) -> None:
    given = images(64)
    result, _ = augment(Augmentation(**{option: True}), given)
    is_flipped = [
        np.array_equal(r, np.flip(g, axis - 1)) for r, g in zip(result, given, strict=True)
    ]
    is_same = [np.array_equal(r, g) for r, g in zip(result, given, strict=True)]
    assert all(flipped or same for flipped, same in zip(is_flipped, is_same, strict=True))
    assert 20 < sum(is_flipped) < 44


@pytest.mark.parametrize(
    ("fill_mode", "column"), [("nearest", 0), ("reflect", 1), ("wrap", -2), ("constant", None)]
)
def test_fill_mode_fills_what_a_shift_uncovers(fill_mode: str, column: int | None) -> None:
    given = images(1)
    right = np.array([[1, 0, -2, 0, 1, 0, 0, 0]], np.float32)  # by two pixels
    options = Augmentation(fill_mode=fill_mode, cval=7)
    still = np.ones(1, np.float32), np.zeros((1, 3), np.float32)
    result = apply_transforms(given, right, *still, options).numpy()
    np.testing.assert_array_equal(result[:, :, 2:], given[:, :, :-2])
    expected = 7 if column is None else given[:, :, column]
    np.testing.assert_array_equal(result[:, :, 0], np.broadcast_to(expected, result[:, :, 0].shape))


def test_brightness_multiplies_and_is_clipped() -> None:
    given = images()
    result, drawn = augment(Augmentation(brightness=0.5), given)
    assert np.ptp(drawn.brightness) > 0.1
    expected = np.clip(given * drawn.brightness[:, None, None, None], 0, 255)
    np.testing.assert_allclose(result, expected, atol=1e-3)


@pytest.mark.parametrize("option", ["rotation", "width_shift", "height_shift", "shear", "zoom"])
def test_options_move_pixels_around_the_center(option: str) -> None:
    options = Augmentation(**{option: 20 if option == "rotation" else 0.3})
    _, drawn = augment(options, images(200))
    center = np.array([(SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2, 1])
    seen = np.stack([drawn.affine[:, 0:3] @ center, drawn.affine[:, 3:6] @ center], axis=1)
    moved = np.abs(seen - center[:2]).max(axis=0)
    if "shift" in option:
        side = 0 if option == "width_shift" else 1
        limit = 0.3 * (SIZE[1], SIZE[0])[side]
        assert 0.8 * limit < moved[side] <= limit
        assert moved[1 - side] < 1e-4
    else:
        assert moved.max() < 1e-4
        assert not np.allclose(drawn.affine[:, :6], [1, 0, 0, 0, 1, 0], atol=0.05)


def test_rotation_preserves_lengths_and_stays_in_range() -> None:
    _, drawn = augment(Augmentation(rotation=30), images(200))
    linear = drawn.affine[:, [0, 1, 3, 4]].reshape(-1, 2, 2)
    unit = np.broadcast_to(np.eye(2), linear.shape)
    np.testing.assert_allclose(linear @ linear.transpose(0, 2, 1), unit, atol=1e-5)
    degrees = np.rad2deg(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
    assert degrees.min() < -25
    assert degrees.max() > 25
    assert np.abs(degrees).max() <= 30


def test_draws_depend_on_the_seed_and_options_are_independent() -> None:
    given = images()
    plain = Augmentation(rotation=20)
    np.testing.assert_array_equal(augment(plain, given)[0], augment(plain, given)[0])
    assert not np.array_equal(augment(plain, given)[0], augment(plain, given, seed=9)[0])
    brighter = plain.model_copy(update={"brightness": 0.2})
    np.testing.assert_array_equal(
        augment(plain, given)[1].affine, augment(brighter, given)[1].affine
    )


def test_a_range_of_zoom_scales_the_axes_apart_as_in_keras() -> None:
    _, drawn = augment(Augmentation(zoom=(0.5, 0.8)), images(200))
    across, down = drawn.affine[:, 0], drawn.affine[:, 4]
    assert 0.5 <= min(across.min(), down.min()) < 0.52
    assert 0.78 < max(across.max(), down.max()) <= 0.8
    assert np.abs(across - down).max() > 0.1
    assert not Augmentation(zoom=(1, 1)).active


def test_a_range_of_brightness_need_not_be_even_about_1() -> None:
    given = np.full((200, *SIZE, 3), 100, np.uint8)
    result, drawn = augment(Augmentation(brightness=(0.2, 1)), given)
    assert 0.2 <= drawn.brightness.min() < 0.22
    assert 0.98 < drawn.brightness.max() <= 1
    np.testing.assert_allclose(result[:, 0, 0, 0], 100 * drawn.brightness, atol=1e-3)
    assert not Augmentation(brightness=(1, 1)).active
    plain, same = (
        augment(Augmentation(brightness=value), given)[1].brightness for value in (0.2, (0.8, 1.2))
    )
    np.testing.assert_allclose(plain, same)
    with pytest.raises(ValidationError, match="brightness: send the lower factor first"):
        Augmentation(brightness=(1.2, 0.8))


def test_shear_in_degrees_is_the_angle() -> None:
    _, drawn = augment(Augmentation(shear=0.9, shear_degrees=45), images(200))
    assert 0.95 < np.abs(drawn.affine[:, 1]).max() <= 1
    assert Augmentation(shear_degrees=5).active


def test_channel_shift_adds_to_each_channel_by_itself() -> None:
    given = np.full((64, *SIZE, 3), 128, np.uint8)
    result, drawn = augment(Augmentation(channel_shift=20), given)
    assert 15 < np.abs(drawn.offset).max() <= 20
    np.testing.assert_allclose(result[:, 0, 0], 128 + drawn.offset, atol=1e-3)
    assert np.ptp(drawn.offset, axis=1).min() > 0


def test_new_options_leave_the_draws_of_the_others_alone() -> None:
    given = images()
    plain = augment(Augmentation(rotation=20, horizontal_flip=True), given)[1]
    more = Augmentation(rotation=20, horizontal_flip=True, channel_shift=9)
    np.testing.assert_array_equal(plain.affine, augment(more, given)[1].affine)
