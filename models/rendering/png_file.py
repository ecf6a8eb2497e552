"""A picture as a PNG, written quickly: a heatmap's would else cost more than the network does.

Pillow tries every filter on every row, which takes most of its time at any level. On a photo under
colours one filter makes a file as small in a third of the time, and neither matches nor runs are
worth looking for there: what its neighbour leaves of a value is noise. Even so its codes are three
quarters of an overlay's cost, to save a fifth of a JPEG photo's bytes; so they may be left out.
"""

import struct
import zlib
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Packing = Literal["stored", "photo", "drawing"]
"""``stored``: as it is; ``photo``: each value by its own code; ``drawing``: also what repeats."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB, _BITS = 2, 8
_NO_FILTER, _LEFT_NEIGHBOUR = 0, 1  # "None" and "Sub" (PNG, third edition, section 9.2)
_ROWS = 64  # at a time, so that a large picture is never there twice
_PACKERS: dict[Packing, tuple[int, int]] = {
    "stored": (0, zlib.Z_DEFAULT_STRATEGY),
    "photo": (1, zlib.Z_HUFFMAN_ONLY),
    "drawing": (1, zlib.Z_RLE),
}


def go_on() -> None:
    """What is called before each step where nothing may end the work."""


def png(
    picture: Image.Image, packing: Packing = "drawing", check: Callable[[], None] = go_on
) -> bytes:
    """The picture in RGB as a file; `check` is called now and then, and may raise."""
    header = struct.pack(">2I5B", picture.width, picture.height, _BITS, _RGB, 0, 0, 0)
    packed = _packed(picture, packing, check)
    chunks = _chunk(b"IHDR", header), _chunk(b"IDAT", packed), _chunk(b"IEND", b"")
    return b"".join((_SIGNATURE, *chunks))


def _packed(picture: Image.Image, packing: Packing, check: Callable[[], None]) -> bytes:
    """Its rows, each behind the number of its filter."""
    level, strategy = _PACKERS[packing]
    packer = zlib.compressobj(level, strategy=strategy)
    parts = []
    for top in range(0, picture.height, _ROWS):
        check()
        bottom = min(picture.height, top + _ROWS)
        block = np.asarray(picture.crop((0, top, picture.width, bottom)).convert("RGB"))
        rows = np.empty((len(block), 1 + 3 * picture.width), np.uint8)
        (_plain if packing == "stored" else _filtered)(block, rows)
        parts.append(packer.compress(rows.data))
    return b"".join((*parts, packer.flush()))


def _plain(block: npt.NDArray[np.uint8], rows: npt.NDArray[np.uint8]) -> None:
    rows[:, 0] = _NO_FILTER
    rows[:, 1:] = block.reshape(len(block), -1)


def _filtered(block: npt.NDArray[np.uint8], rows: npt.NDArray[np.uint8]) -> None:
    """What each value has over its neighbour."""
    rows[:, 0] = _LEFT_NEIGHBOUR
    rows[:, 1:4] = block[:, 0]
    rows[:, 4:] = (block[:, 1:] - block[:, :-1]).reshape(len(block), -1)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return b"".join(
        (
            struct.pack(">I", len(content)),
            kind,
            content,
            struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))),
        )
    )
