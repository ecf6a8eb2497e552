"""Converts any of Pillow's modes to 8-bit RGB: bit depth, palettes, CMYK and transparency.

Two steps around the resize. `interpolable` comes before it and does only what interpolation
needs (palette indices cannot be averaged). `flatten` comes after it, when 50 million pixels have
become 50 thousand, and does the rest. The order does not change the result: compositing on white
is linear in the premultiplied colors that Pillow resizes.
"""

from math import isfinite

import numpy as np
import numpy.typing as npt
from PIL import Image

from contracts.errors import InvalidImage

_PHOTOMETRIC, _BITS_PER_SAMPLE = 262, 258  # TIFF tags
_WHITE_IS_ZERO = 0
_TRANSPARENT_MODES = ("PA", "LA", "La", "RGBA", "RGBa")
_PLAIN_MODES = ("L", "RGB", "I", "F", *_TRANSPARENT_MODES[1:])


def interpolable(image: Image.Image) -> Image.Image:
    """Convert a loaded image to a mode whose pixels can be averaged."""
    if isinstance(image.info.get("transparency"), str):
        del image.info["transparency"]  # a PNG text chunk with that key, not a color
    if image.mode.startswith("I;16"):
        return _mask_16_bit(image) if "transparency" in image.info else image
    if image.mode == "1" and "transparency" not in image.info:
        return image.convert("L")
    if image.has_transparency_data and image.mode not in _TRANSPARENT_MODES[1:]:
        return image.convert("RGBA")
    return image if image.mode in _PLAIN_MODES else image.convert("RGB")


def _mask_16_bit(image: Image.Image) -> Image.Image:
    """Convert a 16-bit grey image with one transparent level; Pillow would clip it at 255."""
    levels = np.asarray(image)
    grey = Image.fromarray((levels >> 8).astype(np.uint8))
    transparent = levels == image.info["transparency"]
    grey.putalpha(Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8)))
    return grey


def flatten(small: Image.Image, source: Image.Image) -> Image.Image:
    """Convert a resized image to RGB, composited on white.

    Args:
        source: The image before resizing, whose range of levels determines their scale.

    Raises:
        InvalidImage: Some pixels are not finite numbers.
    """
    if small.mode.startswith("I;16"):
        return Image.fromarray(_scale_16_bit(small, source)).convert("RGB")
    if small.mode in ("I", "F"):
        return Image.fromarray(_scale_32_bit(small, source)).convert("RGB")
    if small.mode in _TRANSPARENT_MODES:
        # Only the straight alpha modes convert directly from the premultiplied ones.
        straight = {"La": "LA", "RGBa": "RGBA"}.get(small.mode, small.mode)
        layer = small.convert(straight).convert("RGBA")
        white = Image.new("RGB", small.size, "white")
        white.paste(layer, mask=layer)
        return white
    return small if small.mode == "RGB" else small.convert("RGB")


def _scale_16_bit(small: Image.Image, source: Image.Image) -> npt.NDArray[np.uint8]:
    """The high byte of every level, where an 8-bit image saved with 16 bits has its values."""
    tags = getattr(source, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    levels: npt.NDArray[np.uint8] = (np.asarray(small) >> (bits - 8)).clip(0, 255).astype(np.uint8)
    return np.invert(levels) if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else levels


def _scale_32_bit(small: Image.Image, source: Image.Image) -> npt.NDArray[np.uint8]:
    """Scale 32-bit levels, which have no fixed range, by the range in use.

    0 to 1 (floats) and 0 to 255 are taken literally, up to 65535 as 16-bit. Any other image, for
    example a height map, is stretched from its darkest to its lightest level.
    """
    extrema = source.getextrema()
    low, high = float(extrema[0]), float(extrema[1])  # type: ignore[arg-type]
    if not (isfinite(low) and isfinite(high)):
        raise InvalidImage("The image holds values that are not finite numbers. Save it as 8-bit.")
    if low >= 0 and high <= 1 and source.mode == "F":
        low, high = 0, 1
    elif low >= 0 and high <= 255:
        low, high = 0, 255
    elif low >= 0 and high <= 65535:
        low, high = 0, 65535
    levels = np.nan_to_num(np.asarray(small, np.float64))
    scaled = (levels - low) * (255 / (high - low) if high > low else 0)
    return scaled.round().clip(0, 255).astype(np.uint8)
