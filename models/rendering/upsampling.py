"""A coarse grid made smooth, without inventing evidence between its values.

A plain bicubic swings over and under at every edge, which shows as halos; a bilinear one shows the
grid as creases. Monotone cubic interpolation does neither: between two neighbours it never leaves
their range.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

Grid = npt.NDArray[np.float32]

# What is wider is made bilinearly of a picture this wide, or of this many steps a cell: as smooth
# to the eye, and it bounds the memory.
_FINEST = 1024
_STEPS_A_CELL = 4
# Rounds the corners of what is left of the cells; an average never leaves the range either.
_BLUR_CELLS = 0.3
_BLUR_REACH = 4  # standard deviations; what lies beyond weighs less than a ten-thousandth


def smooth(grid: Grid, size: tuple[int, int]) -> Image.Image:
    """The grid as a grey picture.

    Args:
        grid: Values in 0..1, shape (rows, columns).
        size: (width, height) of the picture in pixels.
    """
    width, height = (
        min(side, max(_FINEST, cells * _STEPS_A_CELL))
        for side, cells in zip(size, reversed(grid.shape), strict=True)
    )
    fine = monotone(monotone(grid.T, height, _BLUR_CELLS).T, width, _BLUR_CELLS)
    fine *= 255  # in place, as it is large
    fine += 0.5
    picture = Image.fromarray(fine.astype(np.uint8))
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR)


def monotone(grid: Grid, length: int, blur: float = 0.0) -> Grid:
    """Each row interpolated by cubics that stay between their neighbours.

    Fritsch and Butland (1984), doi:10.1137/0905021: the slope at a point is the harmonic mean of
    those on both sides, and none where they disagree. Cells are areas, so the values stand in
    their middle, and beyond the outermost ones nothing changes.

    Args:
        grid: Shape (n, count).
        length: Points in the result.
        blur: Standard deviation, in cells, of a Gaussian that the result is seen through.

    Returns:
        float32 (n, length).
    """
    known = np.concatenate((grid, _slopes(grid)), axis=1, dtype=np.float32)
    smoothed: Grid = known @ _basis(grid.shape[1], length, blur)
    return smoothed


@lru_cache(maxsize=16)
def _basis(count: int, length: int, blur: float) -> Grid:
    """What each value, and after them each slope, adds to each point: (2 * count, length)."""
    x = ((np.arange(length) + 0.5) * count / length - 0.5).clip(0, count - 1)
    left = np.minimum(x.astype(int), max(0, count - 2))
    right = np.minimum(left + 1, count - 1)
    t, at = x - left, np.arange(length)
    rest = 1 - t
    basis = np.zeros((2 * count, length))
    # The cubic Hermite basis; of a single value, which has no neighbour, both ends are itself.
    np.add.at(basis, (left, at), rest**2 * (1 + 2 * t))
    np.add.at(basis, (right, at), t**2 * (3 - 2 * t))
    np.add.at(basis, (count + left, at), rest**2 * t)
    np.add.at(basis, (count + right, at), -(t**2) * rest)
    seen = _blurred(basis, blur * length / count).astype(np.float32)
    seen.setflags(write=False)
    return seen


def _blurred(rows: npt.NDArray[np.float64], deviation: float) -> npt.NDArray[np.float64]:
    """Each row through a Gaussian of so many points; beyond its ends it goes on as it ended."""
    reach = int(np.ceil(_BLUR_REACH * deviation))
    if reach == 0:
        return rows
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    wide = np.pad(rows, ((0, 0), (reach, reach)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(wide, len(weights), axis=1)
    blurred: npt.NDArray[np.float64] = windows @ (weights / weights.sum())
    return blurred


def _slopes(grid: Grid) -> npt.NDArray[np.float64]:
    steps = np.diff(grid.astype(np.float64), axis=1)
    before, after = steps[:, :-1], steps[:, 1:]
    product = before * after
    total = before + after
    inner = np.divide(2 * product, total, out=np.zeros_like(total), where=product > 0)
    return np.pad(inner, ((0, 0), (1, 1)))[:, : grid.shape[1]]
