import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models.rendering.upsampling import monotone, smooth

GRIDS = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.floats(0, 1, width=32)
)


@settings(max_examples=60)
@given(GRIDS, st.integers(1, 60))
def test_values_stay_in_the_range_of_their_neighbors(grid: np.ndarray, length: int) -> None:
    fine = monotone(grid, length)
    assert fine.shape == (len(grid), length)
    x = ((np.arange(length) + 0.5) * grid.shape[1] / length - 0.5).clip(0, grid.shape[1] - 1)
    left, right = np.floor(x).astype(int), np.ceil(x).astype(int)
    low, high = np.minimum(grid[:, left], grid[:, right]), np.maximum(grid[:, left], grid[:, right])
    assert (fine >= low - 1e-6).all()
    assert (fine <= high + 1e-6).all()


def test_step_has_no_halo() -> None:
    grid = np.full((6, 6), 0.5, np.float32)
    grid[2:4, 2:4] = 1
    levels = np.asarray(smooth(grid, (300, 200)))
    assert levels.shape == (200, 300)
    assert levels.min() >= 127
    assert levels.max() > 240, "hardly lower than the evidence"


@settings(max_examples=60)
@given(GRIDS, st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_smooth_image_stays_in_the_range_of_the_grid(
    grid: np.ndarray, size: tuple[int, int]
) -> None:
    levels = np.asarray(smooth(grid, size)).astype(int)
    assert levels.shape == size[::-1]
    assert levels.min() >= np.floor(grid.min() * 255)
    assert levels.max() <= np.ceil(grid.max() * 255)


def test_values_lie_at_the_centers_of_their_cells() -> None:
    grid = np.array([[0.0, 1.0, 0.25]], np.float32)
    np.testing.assert_allclose(monotone(grid, 9)[0, [1, 4, 7]], grid[0], atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (700, 3), (1500, 40)])
def test_any_size_is_supported(size: tuple[int, int]) -> None:
    assert smooth(np.ones((7, 7), np.float32), size).size == size
