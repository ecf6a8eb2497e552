"""Scales levels of more than 8 bits to 8 bits."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidImage

# The bit depths of cameras, whose levels programs store in 16 bits without scaling them. A photo
# whose brightest pixel has a quarter of the possible light is rare; such a camera is not.
_TOPS = (2**8 - 1, 2**10 - 1, 2**12 - 1, 2**14 - 1)
_FULL = 2**16 - 1


def top_level(brightest: int, stated: object = None) -> int:
    """The level that stands for white in a 16-bit image.

    Args:
        brightest: The highest level in the image.
        stated: What the file says, if anything.
    """
    if isinstance(stated, tuple):
        stated = max(stated, default=None)
    if isinstance(stated, int) and brightest <= stated <= _FULL and stated > 0:
        return stated
    return next((top for top in _TOPS if brightest <= top), _FULL) if brightest else _FULL


def scale_integers(
    levels: npt.NDArray[Any], stated: object = None, *, brightest: int | None = None
) -> npt.NDArray[np.uint8]:
    """Scale 16-bit levels.

    Args:
        levels: Any shape.
        stated: The level of white according to the file, if it says one.
        brightest: The highest level of the image, if `levels` is not all of it.
    """
    top = top_level(int(levels.max()) if brightest is None else brightest, stated)
    if top == _FULL:
        # Where an 8-bit image saved with 16 bits has its values.
        return (levels >> 8).astype(np.uint8)
    return ((levels.astype(np.uint32) * 255 + top // 2) // top).clip(0, 255).astype(np.uint8)


def scale_floats(
    levels: npt.NDArray[Any],
    extrema: tuple[float, float] | None = None,
    *,
    is_integer: bool = False,
) -> npt.NDArray[np.uint8]:
    """Scale 32-bit levels, which have no fixed range, by the range in use.

    0 to 1 (floats) and 0 to 255 are taken literally, up to 65535 as 16-bit. Any other image, for
    example a height map, is stretched from its darkest to its lightest level.

    Args:
        levels: Any shape.
        extrema: Lowest and highest level of the image, if `levels` is not all of it.
        is_integer: Whether the image has integers.

    Raises:
        InvalidImage: Some levels are not finite numbers.
    """
    low, high = extrema or (float(levels.min()), float(levels.max()))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InvalidImage("The image holds values that are not finite numbers. Save it as 8-bit.")
    if low >= 0 and high <= 1 and not is_integer:
        low, high = 0, 1
    elif low >= 0 and high <= 255:
        low, high = 0, 255
    elif low >= 0 and high <= _FULL:
        low, high = 0, top_level(math.ceil(high))
    # In one precision for all: a large image must not need more than sixteen bytes a pixel.
    known = np.nan_to_num(levels.astype(np.float32 if levels.ndim > 2 else np.float64))
    scaled = (known - low) * (255 / (high - low) if high > low else 0)
    eight: npt.NDArray[np.uint8] = scaled.round().clip(0, 255).astype(np.uint8)
    return eight
