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

# What is wider is made bilinearly of so many steps a cell: as smooth to the eye, and it bounds the
# memory. So that it bounds it, a fine grid has fewer.
_FINEST = 1024
_STEPS_A_CELL, _FEWEST_STEPS = 16, 4
# Of a coarser grid a matrix takes half a megabyte at most, and many are kept.
_COARSE = 64
# Rounds the corners of what is left of the cells; an average never leaves the range either.
_BLUR_CELLS = 0.3
_BLUR_REACH = 4  # standard deviations; what lies beyond weighs less than a ten-thousandth


def smooth(grid: Grid, size: tuple[int, int]) -> Image.Image:
    """The grid as a grey picture.

    Args:
        grid: Values in 0..1, shape (rows, columns).
        size: (width, height) of the picture in pixels.
    """
    rows, columns = grid.shape
    width, height = _points(columns, size[0]), _points(rows, size[1])
    fine = monotone(monotone(grid.T, height, _BLUR_CELLS).T, width, _BLUR_CELLS)
    fine *= 255  # in place, as it is large
    fine += 0.5
    picture = Image.fromarray(fine.astype(np.uint8))
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR)


def _points(cells: int, side: int) -> int:
    """How many are computed of so many pixels."""
    if side <= _FINEST:
        return side
    return min(side, max(cells * _FEWEST_STEPS, min(cells * _STEPS_A_CELL, _FINEST)))


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
    basis = _coarse_basis if grid.shape[1] <= _COARSE else _fine_basis
    smoothed: Grid = known @ basis(grid.shape[1], length, blur)
    return smoothed


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


_coarse_basis, _fine_basis = lru_cache(64)(_basis), lru_cache(4)(_basis)


def _blurred(rows: npt.NDArray[np.float64], deviation: float) -> npt.NDArray[np.float64]:
    """Each row through a Gaussian of so many points; beyond its ends it goes on as it ended."""
    reach = int(np.ceil(_BLUR_REACH * deviation))
    if reach == 0:
        return rows
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    wide = np.pad(rows, ((0, 0), (reach, reach)), mode="edge")
    # As a product of spectra, which of a wide picture takes a tenth of the time; what comes round
    # from the other end is what was added there.
    spectrum = np.fft.rfft(wide) * np.fft.rfft(weights / weights.sum(), wide.shape[1])
    return np.fft.irfft(spectrum, wide.shape[1])[:, 2 * reach :]


def _slopes(grid: Grid) -> npt.NDArray[np.float64]:
    steps = np.diff(grid.astype(np.float64), axis=1)
    before, after = steps[:, :-1], steps[:, 1:]
    product = before * after
    total = before + after
    inner = np.divide(2 * product, total, out=np.zeros_like(total), where=product > 0)
    return np.pad(inner, ((0, 0), (1, 1)))[:, : grid.shape[1]]
