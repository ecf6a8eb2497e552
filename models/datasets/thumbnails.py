"""Small squares of pictures, made when first asked for and kept beside them."""

import io
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from PIL import Image

from models.images.decode import decode

SIDE = 160
THUMBNAILS = "thumbnails"
_QUALITY = 80


@dataclass(frozen=True, slots=True)
class _Square:
    input_size: tuple[int, int] = (SIDE, SIDE)
    short_side: int = SIDE


def thumbnail(folder: Path, picture: Path, *, max_pixels: int) -> bytes:
    """A JPEG of the middle of an admitted picture, `SIDE` pixels each way.

    Args:
        folder: The dataset's.
        picture: The file in it, named by its hash.
        max_pixels: As when it was admitted.

    Raises:
        FileNotFoundError: The picture has gone.
        OpsinError: It cannot be decoded any more.
    """
    kept = folder / THUMBNAILS / f"{picture.name}.jpg"
    if kept.is_file():
        return kept.read_bytes()
    small = decode(picture.read_bytes(), network=_Square(), resize="crop", max_pixels=max_pixels)
    buffer = io.BytesIO()
    Image.fromarray(small.pixels).save(buffer, "JPEG", quality=_QUALITY)
    kept.parent.mkdir(exist_ok=True)
    draft = kept.with_name(f".{kept.name}.{uuid4().hex}")
    draft.write_bytes(buffer.getvalue())
    draft.rename(kept)
    return buffer.getvalue()
