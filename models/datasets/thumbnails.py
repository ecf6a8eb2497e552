"""Thumbnails of a dataset's images, made on first request and stored in the dataset's folder.

Images that are left out are not kept, only their thumbnails: people want to see what was refused.
"""

import io
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from PIL import Image

from contracts.errors import OpsinError
from contracts.files import require_room
from contracts.training.datasets import DatasetFile
from models.datasets.admission import content_path
from models.images.decode import InputSpec, decode
from models.images.gate import Gate, at_once

SIDE = 160
THUMBNAILS = "thumbnails"
_QUALITY = 80
_MAX_LEFT_OUT = 100  # thumbnails that one upload may leave of them


def thumbnail(
    folder: Path, path: Path, *, max_pixels: int, large: Gate = at_once, kept_bytes: int = 0
) -> bytes:
    """A JPEG of the middle of an image, `SIDE` pixels wide and high.

    Args:
        folder: The folder of the dataset.
        path: The image, whose file name is its hash.
        max_pixels: The same limit as on import.
        large: Entered while a large image is decoded.
        kept_bytes: Of the disk; if it has no more, the thumbnail is not stored.

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
    with suppress(OSError):  # such as a full disk: it is made again next time
        require_room(folder, buffer.tell(), kept_bytes)
        _keep(stored, buffer.getvalue())
    return buffer.getvalue()


def _keep(stored: Path, jpeg: bytes) -> None:
    stored.parent.mkdir(exist_ok=True)
    draft = stored.with_name(f".{stored.name}.{uuid4().hex}")
    try:
        draft.write_bytes(jpeg)
        draft.rename(stored)
    finally:
        draft.unlink(missing_ok=True)


def keep_left_out(
    folder: Path, files: Iterable[DatasetFile], *, max_pixels: int, large: Gate = at_once
) -> None:
    """Make thumbnails of readable images that are left out, while their files are still there.

    What cannot be read after all has none.
    """
    readable = {file.sha256 for file in files if file.status == "rejected" and file.sha256}
    for sha256 in sorted(readable)[:_MAX_LEFT_OUT]:
        with suppress(OpsinError, FileNotFoundError):
            path = content_path(folder, sha256)
            thumbnail(folder, path, max_pixels=max_pixels, large=large)
