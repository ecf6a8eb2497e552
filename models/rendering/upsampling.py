"""Interpolates a coarse grid smoothly without inventing evidence between its values.

Bicubic interpolation overshoots at every edge, which shows as halos; bilinear interpolation shows
the grid as creases. Monotone cubic interpolation does neither: between two neighbors it never
leaves their range.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

Grid = npt.NDArray[np.float32]

# Wider images are enlarged bilinearly from so many points per cell: equally smooth to the eye, and
# memory stays bounded. A fine grid has fewer points per cell for the same reason.
_MAX_POINTS = 1024
_POINTS_PER_CELL, _MIN_POINTS_PER_CELL = 16, 4
# The matrix of a coarser grid takes at most half a megabyte, so many are cached.
_COARSE = 64
# Rounds the corners of the cells; an average does not leave the range either.
_BLUR_CELLS = 0.3
_BLUR_REACH = 4  # standard deviations; the weight beyond is less than a ten-thousandth


def smooth(grid: Grid, size: tuple[int, int]) -> Image.Image:
    """The grid as a gray image.

    Args:
        grid: Values in 0..1, shape (rows, columns).
        size: (width, height) in pixels.
    """
    rows, columns = grid.shape
    width, height = _points(columns, size[0]), _points(rows, size[1])
    fine = monotone(monotone(grid.T, height, _BLUR_CELLS).T, width, _BLUR_CELLS)
    fine *= 255  # in place, as it is large
    fine += 0.5
    image = Image.fromarray(fine.astype(np.uint8))
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def _points(cells: int, side: int) -> int:
    """How many points are computed for so many pixels."""
    if side <= _MAX_POINTS:
        return side
    return min(side, max(cells * _MIN_POINTS_PER_CELL, min(cells * _POINTS_PER_CELL, _MAX_POINTS)))


def monotone(grid: Grid, length: int, blur: float = 0.0) -> Grid:
    """Each row interpolated by cubics that stay between their neighbors.

    Fritsch and Butland (1984), doi:10.1137/0905021: the slope at a point is the harmonic mean of
    those on both sides, and zero where their signs differ. Cells are areas, so the values lie at
    their centers; beyond the outermost centers the result is constant.

    Args:
        grid: Shape (n, count).
        length: Points in the result.
        blur: Standard deviation, in cells, of a Gaussian applied to the result.

    Returns:
        float32 (n, length).
    """
    known = np.concatenate((grid, _slopes(grid)), axis=1, dtype=np.float32)
    basis = _coarse_basis if grid.shape[1] <= _COARSE else _fine_basis
    smoothed: Grid = known @ basis(grid.shape[1], length, blur)
    return smoothed


def _basis(count: int, length: int, blur: float) -> Grid:
    """The weights of each value and then of each slope at each point: (2 * count, length)."""
    x = ((np.arange(length) + 0.5) * count / length - 0.5).clip(0, count - 1)
    left = np.minimum(x.astype(int), max(0, count - 2))
    right = np.minimum(left + 1, count - 1)
    t, points = x - left, np.arange(length)
    rest = 1 - t
    basis = np.zeros((2 * count, length))
    # The cubic Hermite basis; a single value, which has no neighbor, is both ends.
    np.add.at(basis, (left, points), rest**2 * (1 + 2 * t))
    np.add.at(basis, (right, points), t**2 * (3 - 2 * t))
    np.add.at(basis, (count + left, points), rest**2 * t)
    np.add.at(basis, (count + right, points), -(t**2) * rest)
    blurred = _blurred(basis, blur * length / count).astype(np.float32)
    blurred.setflags(write=False)  # shared by the cache
    return blurred


_coarse_basis, _fine_basis = lru_cache(64)(_basis), lru_cache(4)(_basis)


def _blurred(rows: npt.NDArray[np.float64], deviation: float) -> npt.NDArray[np.float64]:
    """Each row convolved with a Gaussian of so many points; its ends are extended."""
    reach = int(np.ceil(_BLUR_REACH * deviation))
    if reach == 0:
        return rows
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    wide = np.pad(rows, ((0, 0), (reach, reach)), mode="edge")
    # A product of spectra takes a tenth of the time for a wide image; the wrapped-around part is
    # the padding, which is cut off.
    spectrum = np.fft.rfft(wide) * np.fft.rfft(weights / weights.sum(), wide.shape[1])
    return np.fft.irfft(spectrum, wide.shape[1])[:, 2 * reach :]


def _slopes(grid: Grid) -> npt.NDArray[np.float64]:
    steps = np.diff(grid.astype(np.float64), axis=1)
    before, after = steps[:, :-1], steps[:, 1:]
    product = before * after
    total = before + after
    inner = np.divide(2 * product, total, out=np.zeros_like(total), where=product > 0)
    return np.pad(inner, ((0, 0), (1, 1)))[:, : grid.shape[1]]
