"""Resizes bilinearly and antialiased, by the processor's vector instructions where possible.

Pillow's filter is plain C and takes longer than decoding the JPEG did. `cykooz-resizer` computes
the same sums in a quarter of the time, and releases the interpreter lock as well. It averages rows
and columns in another order, so in photos a tenth of the levels differ from Pillow's by one; both
are equally far from the exact values. It has no wheel for every platform: without it, Pillow
resizes everything.
"""

import math
import threading
from typing import Any

from PIL import Image

try:
    import cykooz_resizer as simd
except ImportError:  # see `pyproject.toml` for the platforms
    simd = None

_MODES = ("RGB", "L")
_MAX_BETWEEN = 1_000_000  # pixels between the two steps, if these are more than the image has
_local = threading.local()  # a resizer keeps its memory from image to image


def resize_bilinear(
    image: Image.Image,
    size: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """Resize an image, or a part of it; the filter's support grows with the reduction.

    Args:
        image: In any mode that Pillow interpolates in: not ``1`` and not ``P``.
        size: (width, height) of the result.
        box: The part, as (left, top, right, bottom) in pixels; None for all of it.
    """
    if simd is None or image.mode not in _MODES or 0 in image.size or _is_wide(image, size):
        return image.resize(size, Image.Resampling.BILINEAR, box=box)
    left, top, right, bottom = box or (0.0, 0.0, *map(float, image.size))
    width, height = _extent(left, right, image.width), _extent(top, bottom, image.height)
    small = Image.new(image.mode, size)
    options = simd.ResizeOptions(
        simd.ResizeAlg.convolution(simd.FilterType.bilinear),
        crop_box=simd.CropBox(left, top, width, height),
    )
    _resizer().resize_pil(image, small, options)
    return small


def _is_wide(image: Image.Image, size: tuple[int, int]) -> bool:
    """Whether the rows, which are averaged first, would take far more memory than the image.

    An image of a million pixels in one row would take a gigabyte.
    """
    return image.height < size[1] and image.width * size[1] > _MAX_BETWEEN


def _extent(start: float, end: float, side: int) -> float:
    """The length from `start` to `end`; added to `start`, it does not exceed `side`."""
    length = min(end, float(side)) - start
    while start + length > side:  # rounding, at most twice
        length = math.nextafter(length, 0.0)
    return length


def _resizer() -> Any:
    resizer = getattr(_local, "resizer", None)
    if resizer is None:
        resizer = _local.resizer = simd.Resizer()
    return resizer
