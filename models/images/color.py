"""Converts any of Pillow's modes to 8-bit sRGB: bit depth, palettes, profiles and transparency.

Two steps around the resize. `interpolable` comes before it and does only what interpolation
needs (palette indices cannot be averaged). `flatten` comes after it, when 50 million pixels have
become 50 thousand, and does the rest. The order does not change the result: compositing on white
is linear in the premultiplied colors that Pillow resizes.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.images.color_profile import is_described, to_srgb
from models.images.levels import scale_floats, scale_integers

_BITS_PER_SAMPLE, _PHOTOMETRIC, _MAX_SAMPLE_VALUE = 258, 262, 281  # TIFF tags
_WHITE_IS_ZERO = 0
_TRANSPARENT_MODES = ("PA", "LA", "La", "RGBA", "RGBa")
_PLAIN_MODES = ("L", "RGB", "I", "F", *_TRANSPARENT_MODES[1:])


def interpolable(image: Image.Image) -> Image.Image:
    """Convert a loaded image to a mode whose pixels can be averaged."""
    if isinstance(image.info.get("transparency"), str):
        del image.info["transparency"]  # a PNG text chunk with that key, not a color
    if image.mode == "I;16B":
        image = _little_endian(image)
    if image.mode.startswith("I;16"):
        return _mask_16_bit(image) if "transparency" in image.info else image
    if image.mode == "CMYK" and is_described(image):
        return image  # inks are averaged as well as light; `flatten` knows what they look like
    if image.mode == "1" and "transparency" not in image.info:
        return image.convert("L")
    if image.has_transparency_data and image.mode not in _TRANSPARENT_MODES[1:]:
        return image.convert("RGBA")
    return image if image.mode in _PLAIN_MODES else image.convert("RGB")


def _little_endian(image: Image.Image) -> Image.Image:
    """Convert a 16-bit gray image of the other order of bytes, which Pillow resizes wrongly."""
    levels = Image.fromarray(np.asarray(image).astype("<u2"))
    levels.info = image.info
    return levels


def _mask_16_bit(image: Image.Image) -> Image.Image:
    """Convert a 16-bit gray image with one transparent level; Pillow would clip it at 255."""
    levels = np.asarray(image)
    gray = Image.fromarray(scale_integers(levels))
    transparent = levels == image.info["transparency"]
    gray.putalpha(Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8)))
    return gray


def flatten(small: Image.Image, source: Image.Image) -> Image.Image:
    """Convert a resized image to sRGB, composited on white.

    Args:
        source: The image before resizing, whose range of levels determines their scale and whose
            color profile applies.

    Raises:
        InvalidImage: Some pixels are not finite numbers.
    """
    profile = source.info.get("icc_profile")
    if small.mode.startswith("I;16"):
        small = Image.fromarray(_scale_16_bit(small, source))
    elif small.mode in ("I", "F"):
        small = Image.fromarray(_scale_32_bit(small, source))
    if small.mode in _TRANSPARENT_MODES:
        # Only the straight alpha modes convert directly from the premultiplied ones.
        straight = {"La": "LA", "RGBa": "RGBA"}.get(small.mode, small.mode)
        layer = to_srgb(small.convert(straight), profile).convert("RGBA")
        white = Image.new("RGB", small.size, "white")
        white.paste(layer, mask=layer)
        return white
    small = to_srgb(small, profile)
    return small if small.mode == "RGB" else small.convert("RGB")


def _scale_16_bit(small: Image.Image, source: Image.Image) -> npt.NDArray[np.uint8]:
    """Scale the levels of a 16-bit gray image."""
    tags = getattr(source, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    stated = 2**bits - 1 if bits < 16 else tags.get(_MAX_SAMPLE_VALUE)
    levels = scale_integers(
        np.asarray(small), stated, brightest=int(np.asarray(source).max(initial=0))
    )
    return np.invert(levels) if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else levels


def _scale_32_bit(small: Image.Image, source: Image.Image) -> npt.NDArray[np.uint8]:
    """Scale 32-bit levels by the range of the whole image."""
    low, high = source.getextrema()
    extrema = float(low), float(high)  # type: ignore[arg-type]
    return scale_floats(np.asarray(small), extrema, is_integer=source.mode == "I")
