"""A coarse grid made smooth, without inventing evidence between its values.

A plain bicubic swings over and under at every edge, which shows as halos; a bilinear one shows the
grid as creases. Monotone cubic interpolation does neither: between two neighbours it never leaves
their range.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Grid = npt.NDArray[np.float32]

# Beyond this many steps a cell bilinear is as smooth to the eye, and far cheaper.
_STEPS_A_CELL = 16
# Rounds the corners of what is left of the cells; an average never leaves the range either.
_BLUR_CELLS = 0.3


def smooth(grid: Grid, size: tuple[int, int]) -> Image.Image:
    """The grid as a grey picture.

    Args:
        grid: Values in 0..1, shape (rows, columns).
        size: (width, height) of the picture in pixels.
    """
    rows, columns = grid.shape
    width, height = min(size[0], columns * _STEPS_A_CELL), min(size[1], rows * _STEPS_A_CELL)
    fine = monotone(monotone(grid, width).T, height).T
    levels = (fine * 255).round().clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(levels))
    blur = _BLUR_CELLS * picture.width / columns, _BLUR_CELLS * picture.height / rows
    return picture.filter(ImageFilter.GaussianBlur(blur)).resize(size, Image.Resampling.BILINEAR)


def monotone(grid: Grid, length: int) -> Grid:
    """Each row interpolated by cubics that stay between their neighbours.

    Fritsch and Butland (1984), doi:10.1137/0905021: the slope at a point is the harmonic mean of
    those on both sides, and none where they disagree. Cells are areas, so the values stand in
    their middle, and beyond the outermost ones nothing changes.

    Args:
        grid: Shape (n, count).
        length: Points in the result.

    Returns:
        float32 (n, length).
    """
    if grid.shape[1] == 1:
        flat: Grid = np.repeat(grid, length, axis=1)
        return flat
    values, slopes = _basis(grid.shape[1], length)
    smoothed: Grid = (grid @ values + _slopes(grid) @ slopes).astype(np.float32)
    return smoothed


@lru_cache(maxsize=64)
def _basis(count: int, length: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What each value, and each slope, adds to each point: two matrices (count, length)."""
    x = ((np.arange(length) + 0.5) * count / length - 0.5).clip(0, count - 1)
    left = np.minimum(x.astype(int), count - 2)
    t, at = x - left, np.arange(length)
    rest = 1 - t
    values, slopes = np.zeros((count, length)), np.zeros((count, length))
    # The cubic Hermite basis.
    values[left, at], values[left + 1, at] = rest**2 * (1 + 2 * t), t**2 * (3 - 2 * t)
    slopes[left, at], slopes[left + 1, at] = rest**2 * t, -(t**2) * rest
    values.setflags(write=False)
    slopes.setflags(write=False)
    return values, slopes


def _slopes(grid: Grid) -> npt.NDArray[np.float64]:
    steps = np.diff(grid.astype(np.float64), axis=1)
    before, after = steps[:, :-1], steps[:, 1:]
    product = before * after
    total = before + after
    inner = np.divide(2 * product, total, out=np.zeros_like(total), where=product > 0)
    return np.pad(inner, ((0, 0), (1, 1)))
