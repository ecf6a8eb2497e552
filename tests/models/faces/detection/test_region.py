import math

import numpy as np
import pytest

from models.faces.detection.region import FaceRegion, crop_region, map_to_image


def image(height: int = 40, width: int = 60) -> np.ndarray:
    """Red increases to the right, green downwards."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 4, y * 6, np.zeros_like(x)], axis=-1).astype(np.uint8)


def test_an_upright_square_is_copied_pixel_by_pixel() -> None:
    found = crop_region(image(), FaceRegion(30, 20, 16).to_square(16), 16)
    np.testing.assert_array_equal(found, image()[12:28, 22:38])


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_reduced_square_contains_averages(step: int) -> None:
    random = np.random.default_rng(8).integers(0, 256, (60, 60, 3), np.uint8)
    found = crop_region(random, FaceRegion(30, 30, 60).to_square(60 // step), 60 // step)
    means = random.reshape(60 // step, step, 60 // step, step, 3).mean(axis=(1, 3))
    assert np.abs(found - means).max() <= 1


@pytest.mark.parametrize("degrees", [0, 30, 90, -135])
@pytest.mark.parametrize("side", [12.0, 50.0])
def test_points_are_mapped_back_to_the_image(degrees: float, side: float) -> None:
    region = FaceRegion(31.5, 18.25, side, math.radians(degrees))
    to_square = region.to_square(64)
    points = np.random.default_rng(8).uniform(0, 64, (5, 3)).astype(np.float32)
    found = map_to_image(to_square, points)
    again = found[:, :2] @ to_square[:, :2].T + to_square[:, 2]
    np.testing.assert_allclose(again, points[:, :2], atol=1e-3)
    np.testing.assert_allclose(found[:, 2], points[:, 2] * side / 64, rtol=1e-4)
    np.testing.assert_allclose(to_square @ [31.5, 18.25, 1], [32, 32], atol=1e-9)


def test_a_region_rotated_clockwise_gives_an_image_rotated_back() -> None:
    found = crop_region(image(), FaceRegion(30, 20, 16, math.radians(90)).to_square(16), 16)
    np.testing.assert_array_equal(found, np.rot90(image()[12:28, 22:38]))


def test_pixels_beyond_the_image_are_black() -> None:
    bright = np.full((10, 10, 3), 200, np.uint8)
    found = crop_region(bright, FaceRegion(0, 0, 8).to_square(8), 8)
    assert (found[:3, :3] == 0).all()
    assert (found[5:, 5:] == 200).all()
    assert not crop_region(bright, FaceRegion(500, 500, 8).to_square(8), 8).any()
    assert not crop_region(bright, FaceRegion(-500, 500, 4000).to_square(8), 8)[0].any()
