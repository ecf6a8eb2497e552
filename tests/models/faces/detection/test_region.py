import math

import numpy as np
import pytest

from models.faces.detection.region import Region, back_from, cut


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    """Red grows to the right, green downwards."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 4, y * 6, np.zeros_like(x)], axis=-1).astype(np.uint8)


def test_an_upright_square_is_copied_pixel_by_pixel() -> None:
    found = cut(picture(), Region(30, 20, 16).onto(16), 16)
    np.testing.assert_array_equal(found, picture()[12:28, 22:38])


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_smaller_square_holds_averages(step: int) -> None:
    random = np.random.default_rng(8).integers(0, 256, (60, 60, 3), np.uint8)
    found = cut(random, Region(30, 30, 60).onto(60 // step), 60 // step)
    means = random.reshape(60 // step, step, 60 // step, step, 3).mean(axis=(1, 3))
    assert np.abs(found - means).max() <= 1


@pytest.mark.parametrize("degrees", [0, 30, 90, -135])
@pytest.mark.parametrize("side", [12.0, 50.0])
def test_points_come_back_to_where_they_were(degrees: float, side: float) -> None:
    region = Region(31.5, 18.25, side, math.radians(degrees))
    onto = region.onto(64)
    points = np.random.default_rng(8).uniform(0, 64, (5, 3)).astype(np.float32)
    found = back_from(onto, points)
    again = found[:, :2] @ onto[:, :2].T + onto[:, 2]
    np.testing.assert_allclose(again, points[:, :2], atol=1e-3)
    np.testing.assert_allclose(found[:, 2], points[:, 2] * side / 64, rtol=1e-4)
    np.testing.assert_allclose(onto @ [31.5, 18.25, 1], [32, 32], atol=1e-9)


def test_a_region_turned_clockwise_sees_the_picture_turned_back() -> None:
    found = cut(picture(), Region(30, 20, 16, math.radians(90)).onto(16), 16)
    np.testing.assert_array_equal(found, np.rot90(picture()[12:28, 22:38]))


def test_beyond_the_picture_it_is_black() -> None:
    bright = np.full((10, 10, 3), 200, np.uint8)
    found = cut(bright, Region(0, 0, 8).onto(8), 8)
    assert (found[:3, :3] == 0).all()
    assert (found[5:, 5:] == 200).all()
    assert not cut(bright, Region(500, 500, 8).onto(8), 8).any()
    assert not cut(bright, Region(-500, 500, 4000).onto(8), 8)[0].any()
