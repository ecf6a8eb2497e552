"""From any of Pillow's modes to plain 8-bit RGB: depth, palettes, inks and transparency.

Two steps around the resize. `interpolable` comes before it and only does what interpolation
needs (colors of a palette cannot be averaged, their numbers even less). `flatten` comes after,
when 50 million pixels have become 50 thousand, and does the rest. The order changes nothing in
the result: composing on white is linear in the premultiplied colors that Pillow resizes.
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
    """The picture in a mode whose pixels can be averaged: grey, RGB, with alpha or deeper.

    Args:
        image: A loaded picture in any mode.
    """
    if isinstance(image.info.get("transparency"), str):
        del image.info["transparency"]  # a PNG text chunk of that name, not a color
    if image.mode.startswith("I;16"):
        return _masked_deep(image) if "transparency" in image.info else image
    if image.mode == "1" and "transparency" not in image.info:
        return image.convert("L")
    if image.has_transparency_data and image.mode not in _TRANSPARENT_MODES[1:]:
        return image.convert("RGBA")
    return image if image.mode in _PLAIN_MODES else image.convert("RGB")


def _masked_deep(image: Image.Image) -> Image.Image:
    """A 16-bit grey picture one of whose levels is transparent; Pillow would clip it at 255."""
    levels = np.asarray(image)
    grey = Image.fromarray((levels >> 8).astype(np.uint8))
    see_through = levels == image.info["transparency"]
    grey.putalpha(Image.fromarray(np.where(see_through, 0, 255).astype(np.uint8)))
    return grey


def flatten(small: Image.Image, source: Image.Image) -> Image.Image:
    """The resized picture as RGB, composed on white.

    Args:
        small: The picture after resizing.
        source: The picture before it, whose full range tells what the levels mean.

    Raises:
        InvalidImage: The pixels are not numbers.
    """
    if small.mode.startswith("I;16"):
        return Image.fromarray(_eight_of_sixteen(small, source)).convert("RGB")
    if small.mode in ("I", "F"):
        return Image.fromarray(_eight_of_any(small, source)).convert("RGB")
    if small.mode in _TRANSPARENT_MODES:
        # Only the straight alpha modes convert directly from the premultiplied ones.
        straight = {"La": "LA", "RGBa": "RGBA"}.get(small.mode, small.mode)
        layer = small.convert(straight).convert("RGBA")
        white = Image.new("RGB", small.size, "white")
        white.paste(layer, mask=layer)
        return white
    return small if small.mode == "RGB" else small.convert("RGB")


def _eight_of_sixteen(small: Image.Image, source: Image.Image) -> npt.NDArray[np.uint8]:
    """The high byte of every level, which is where an 8-bit picture saved as 16-bit has its own."""
    tags = getattr(source, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    levels: npt.NDArray[np.uint8] = (np.asarray(small) >> (bits - 8)).clip(0, 255).astype(np.uint8)
    return np.invert(levels) if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else levels


def _eight_of_any(small: Image.Image, source: Image.Image) -> npt.NDArray[np.uint8]:
    """32-bit levels carry no scale: the range that is in use has to tell it.

    0 to 1 (floats) and 0 to 255 are taken at their word, up to 65535 as 16-bit; anything else,
    a height map say, is stretched from its darkest to its lightest level.
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
