"""A picture as a PNG, written quickly: a heatmap's would else cost more than the network does.

Pillow tries every filter on every row, which takes most of its time at any level. On a photo under
colors one filter makes a file as small in a third of the time, and neither matches nor runs are
worth looking for there: what its neighbour leaves of a value is noise. Even so its codes are three
quarters of an overlay's cost, to save a fifth of a JPEG photo's bytes; so they may be left out.
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Packing = Literal["stored", "photo", "drawing"]
"""``stored``: as it is; ``photo``: each value by its own code; ``drawing``: also what repeats."""

Part = bytes | memoryview

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB, _BITS = 2, 8
_NO_FILTER, _LEFT_NEIGHBOUR = 0, 1  # "None" and "Sub" (PNG, third edition, section 9.2)
_ROWS = 64  # at a time, so that a large picture is never there twice
_ZLIB_HEADER = b"\x78\x01"
_STORED_BYTES = 0xFFFF  # the most that one block of deflate stores
_PACKERS: dict[Packing, tuple[int, int]] = {
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
    packed = _stored(picture) if packing == "stored" else _packed(picture, packing, check)
    chunks = (*_chunk(b"IHDR", [header]), *_chunk(b"IDAT", packed), *_chunk(b"IEND", []))
    return b"".join((_SIGNATURE, *chunks))


def _stored(picture: Image.Image) -> list[Part]:
    """Its rows in a zlib stream that compresses nothing (RFC 1950; RFC 1951, section 3.2.4).

    zlib would write the same in three times the time: it copies twice what is here only pointed at.
    """
    # Pillow puts a zero behind each row: the number of the next one's filter, which is none.
    behind = picture.convert("RGB").tobytes("raw", "RGB", 3 * picture.width + 1, 1)
    whole = memoryview(bytes([_NO_FILTER]) + behind)[:-1]
    parts: list[Part] = [_ZLIB_HEADER]
    for at in range(0, len(whole), _STORED_BYTES):
        block = whole[at : at + _STORED_BYTES]
        last = at + _STORED_BYTES >= len(whole)
        parts += struct.pack("<BHH", last, len(block), _STORED_BYTES - len(block)), block
    return [*parts, struct.pack(">I", zlib.adler32(whole))]


def _packed(picture: Image.Image, packing: Packing, check: Callable[[], None]) -> list[Part]:
    """Its rows, each behind the number of its filter."""
    level, strategy = _PACKERS[packing]
    packer = zlib.compressobj(level, strategy=strategy)
    parts: list[Part] = []
    for top in range(0, picture.height, _ROWS):
        check()
        bottom = min(picture.height, top + _ROWS)
        block = np.asarray(picture.crop((0, top, picture.width, bottom)).convert("RGB"))
        parts.append(packer.compress(_filtered(block).data))
    return [*parts, packer.flush()]


def _filtered(block: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """What each value has over its neighbour."""
    rows = np.empty((len(block), 1 + block[0].size), np.uint8)
    rows[:, 0] = _LEFT_NEIGHBOUR
    rows[:, 1:4] = block[:, 0]
    rows[:, 4:] = (block[:, 1:] - block[:, :-1]).reshape(len(block), -1)
    return rows


def _chunk(kind: bytes, content: Sequence[Part]) -> list[Part]:
    crc = zlib.crc32(kind)
    for part in content:
        crc = zlib.crc32(part, crc)
    length = struct.pack(">I", sum(map(len, content)))
    return [length, kind, *content, struct.pack(">I", crc)]
