"""Images as arrays: read from files, resized, and written with the settings that made them."""

import io
import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from contracts.create.requests import LARGEST_SIDE
from contracts.errors import ValidationFailed
from models.images.decode import decode_reduced
from models.images.resize import Size

Array = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
SOFTWARE = "Opsin"
SETTINGS_KEY = "Opsin settings"
"""The text chunk of a PNG that holds its settings as JSON."""


def read_image(data: bytes, longest_side: int, max_pixels: int) -> Image.Image:
    """An RGB image, upright, scaled down until no side is longer.

    Raises:
        InvalidImage: It cannot be decoded.
        ImageTooLarge: It has more than `max_pixels`.
    """
    decoded = decode_reduced(data, longest_side=longest_side, max_pixels=max_pixels)
    return Image.fromarray(decoded.pixels)


def scaled_size(size: Size, longest_side: int, minimum: int = 1) -> Size:
    """A size with that longer side and the same proportions; no side is below `minimum`."""
    scale = longest_side / max(size)
    return max(minimum, round(size[0] * scale)), max(minimum, round(size[1] * scale))


def enlarged(size: Size, minimum: int) -> Size:
    """The size, or one with the same proportions whose shorter side has that minimum.

    Raises:
        ValidationFailed: The longer side would be too long.
    """
    if min(size) >= minimum:
        return size
    scale = minimum / min(size)
    longer = math.ceil(max(size) * scale)
    if longer > LARGEST_SIDE:
        raise ValidationFailed(
            f"The image is too narrow: at {minimum} pixels, its longer side would have "
            f"{longer:,}. Send a part of it."
        )
    return max(minimum, round(size[0] * scale)), max(minimum, round(size[1] * scale))


def required(size: Size, minimum: int) -> None:
    """Check that a network can take an image of that size.

    Raises:
        ValidationFailed: It cannot; says which size it can take.
    """
    if min(size) >= minimum:
        return
    needed = math.ceil(max(size) * minimum / min(size))
    advice = f"Send size={needed}" if needed <= LARGEST_SIDE else "Send a part of the image"
    raise ValidationFailed(
        f"size: a result of {size[0]} x {size[1]} pixels is too small for these layers, which need "
        f"{minimum} on the shorter side. {advice}, or choose earlier layers."
    )


def resized(image: Image.Image, size: Size) -> Array:
    """float32 (height, width, 3), levels of 0 to 255."""
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(image, np.float32)


def resized_array(image: Array, size: Size) -> Array:
    """Bicubic, in float32, each channel by itself."""
    channels = [
        Image.fromarray(np.ascontiguousarray(image[..., channel])).resize(
            size, Image.Resampling.BICUBIC
        )
        for channel in range(image.shape[-1])
    ]
    return np.stack([np.asarray(channel, np.float32) for channel in channels], axis=-1)


def to_pixels(image: Array) -> Pixels:
    """uint8, rounded and clipped."""
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)


def png_file(pixels: Pixels, settings: dict[str, Any], *, fast: bool = False) -> bytes:
    """A PNG file with the settings as text; `fast` for a preview, which is a little larger."""
    text = PngInfo()
    text.add_text("Software", SOFTWARE)
    text.add_itxt(SETTINGS_KEY, json.dumps(settings, sort_keys=True))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1 if fast else 6, pnginfo=text)
    return file.getvalue()
