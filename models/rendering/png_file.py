"""A picture as a PNG, written quickly: a heatmap's would else cost more than the network does.

Pillow tries every filter on every row, which takes most of its time at any level. On a photo under
colours one filter makes a file as small in a third of the time, and neither matches nor runs are
worth looking for there: what its neighbour leaves of a value is noise.
"""

import struct
import zlib

import numpy as np
from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB, _BITS = 2, 8
_LEFT_NEIGHBOUR = 1  # the filter "Sub" (PNG, third edition, section 9.2)
_LEVEL = 1
_ROWS = 64  # at a time, so that a large picture is never there twice


def png(picture: Image.Image, *, photo: bool = False) -> bytes:
    """The picture in RGB as a file.

    Args:
        picture: Any.
        photo: Whether it is one, so that nothing in it repeats.
    """
    header = struct.pack(">2I5B", picture.width, picture.height, _BITS, _RGB, 0, 0, 0)
    chunks = _chunk(b"IHDR", header), _chunk(b"IDAT", _packed(picture, photo)), _chunk(b"IEND", b"")
    return b"".join((_SIGNATURE, *chunks))


def _packed(picture: Image.Image, photo: bool) -> bytes:
    """Its rows, each with the filter's number and then what each value has over its neighbour."""
    packer = zlib.compressobj(_LEVEL, strategy=zlib.Z_HUFFMAN_ONLY if photo else zlib.Z_RLE)
    parts = []
    for top in range(0, picture.height, _ROWS):
        bottom = min(picture.height, top + _ROWS)
        block = np.asarray(picture.crop((0, top, picture.width, bottom)).convert("RGB"))
        rows = np.empty((len(block), 1 + 3 * picture.width), np.uint8)
        rows[:, 0] = _LEFT_NEIGHBOUR
        rows[:, 1:4] = block[:, 0]
        rows[:, 4:] = (block[:, 1:] - block[:, :-1]).reshape(len(block), -1)
        parts.append(packer.compress(rows.data))
    return b"".join((*parts, packer.flush()))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return b"".join(
        (
            struct.pack(">I", len(content)),
            kind,
            content,
            struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))),
        )
    )
