"""Thumbnails of a dataset's images, made on first request and stored in the dataset's folder."""

import io
from pathlib import Path
from uuid import uuid4

from PIL import Image

from models.images.decode import InputSpec, decode
from models.images.gate import Gate, at_once

SIDE = 160
THUMBNAILS = "thumbnails"
_QUALITY = 80


def thumbnail(folder: Path, path: Path, *, max_pixels: int, large: Gate = at_once) -> bytes:
    """A JPEG of the middle of an image, `SIDE` pixels wide and high.

    Args:
        folder: The folder of the dataset.
        path: The image, whose file name is its hash.
        max_pixels: The same limit as on import.
        large: Entered while a large image is decoded.

    Raises:
        FileNotFoundError: The image no longer exists.
        OpsinError: The image can no longer be decoded.
    """
    stored = folder / THUMBNAILS / f"{path.name}.jpg"
    if stored.is_file():
        return stored.read_bytes()
    image = decode(
        path.read_bytes(),
        network=InputSpec.square(SIDE),
        resize="crop",
        max_pixels=max_pixels,
        large=large,
    )
    buffer = io.BytesIO()
    Image.fromarray(image.pixels).save(buffer, "JPEG", quality=_QUALITY)
    stored.parent.mkdir(exist_ok=True)
    draft = stored.with_name(f".{stored.name}.{uuid4().hex}")
    draft.write_bytes(buffer.getvalue())
    draft.rename(stored)
    return buffer.getvalue()
