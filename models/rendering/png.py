"""Writes PNG files quickly: with Pillow, a heatmap's file would cost more than the network.

Pillow tries every filter on every row, which takes most of its time at any level. On a photo under
colors a single filter gives an equally small file in a third of the time, and searching for matches
or runs is useless there because the filtered values are noise. Even then, Huffman coding is three
quarters of an overlay's cost and saves a fifth of a JPEG photo's bytes, so it is optional.

OpenCV's encoder offers the same strategies, but the API process, which writes these files, does not
load OpenCV, and the encoder cannot be stopped between rows.
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Packing = Literal["stored", "photo", "drawing"]
"""``stored``: uncompressed; ``photo``: Huffman codes only; ``drawing``: also run lengths."""

Part = bytes | memoryview

SOFTWARE = "Opsin explanation"
"""The text chunk `Software` of every image that explains another one."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB, _BITS = 2, 8
_NO_FILTER, _LEFT_NEIGHBOR = 0, 1  # "None" and "Sub" (PNG, third edition, section 9.2)
_ROWS = 64  # at a time, so that a large image is never in memory twice
_ZLIB_HEADER = b"\x78\x01"
_HEAD = 256  # bytes in which the text chunk is
_MAX_BLOCK_BYTES = 0xFFFF  # of one stored block of deflate
_COMPRESSION: dict[Packing, tuple[int, int]] = {
    "photo": (1, zlib.Z_HUFFMAN_ONLY),
    "drawing": (1, zlib.Z_RLE),
}


def no_check() -> None:
    """The default check: never stops the work."""


def png(
    image: Image.Image, packing: Packing = "drawing", check: Callable[[], None] = no_check
) -> bytes:
    """The image as an RGB file; `check` is called now and then and may raise to stop."""
    header = struct.pack(">2I5B", image.width, image.height, _BITS, _RGB, 0, 0, 0)
    data = _stored(image) if packing == "stored" else _compressed(image, packing, check)
    text = b"Software\0" + SOFTWARE.encode("ascii")
    chunks = (
        *(*_chunk(b"IHDR", [header]), *_chunk(b"tEXt", [text])),
        *(*_chunk(b"IDAT", data), *_chunk(b"IEND", [])),
    )
    return b"".join((_SIGNATURE, *chunks))


def is_explanation(data: bytes) -> bool:
    """Whether a file is an image that Opsin has drawn to explain another one."""
    return data.startswith(_SIGNATURE) and f"Software\0{SOFTWARE}".encode("ascii") in data[:_HEAD]


def _stored(image: Image.Image) -> list[Part]:
    """The rows in an uncompressed zlib stream (RFC 1950; RFC 1951, section 3.2.4).

    zlib takes three times as long for the same bytes: it copies twice what is referenced here.
    """
    # Pillow appends a zero to each row, which is the filter number of the next one: no filter.
    rows = image.convert("RGB").tobytes("raw", "RGB", 3 * image.width + 1, 1)
    whole = memoryview(bytes([_NO_FILTER]) + rows)[:-1]
    parts: list[Part] = [_ZLIB_HEADER]
    for start in range(0, len(whole), _MAX_BLOCK_BYTES):
        block = whole[start : start + _MAX_BLOCK_BYTES]
        last = start + _MAX_BLOCK_BYTES >= len(whole)
        parts += struct.pack("<BHH", last, len(block), _MAX_BLOCK_BYTES - len(block)), block
    return [*parts, struct.pack(">I", zlib.adler32(whole))]


def _compressed(image: Image.Image, packing: Packing, check: Callable[[], None]) -> list[Part]:
    """The rows, each preceded by the number of its filter."""
    level, strategy = _COMPRESSION[packing]
    compressor = zlib.compressobj(level, strategy=strategy)
    parts: list[Part] = []
    for top in range(0, image.height, _ROWS):
        check()
        bottom = min(image.height, top + _ROWS)
        block = np.asarray(image.crop((0, top, image.width, bottom)).convert("RGB"))
        parts.append(compressor.compress(_filtered(block).data))
    return [*parts, compressor.flush()]


def _filtered(block: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Each value minus its left neighbor's (the filter "Sub")."""
    rows = np.empty((len(block), 1 + block[0].size), np.uint8)
    rows[:, 0] = _LEFT_NEIGHBOR
    rows[:, 1:4] = block[:, 0]
    rows[:, 4:] = (block[:, 1:] - block[:, :-1]).reshape(len(block), -1)
    return rows


def _chunk(kind: bytes, content: Sequence[Part]) -> list[Part]:
    crc = zlib.crc32(kind)
    for part in content:
        crc = zlib.crc32(part, crc)
    length = struct.pack(">I", sum(map(len, content)))
    return [length, kind, *content, struct.pack(">I", crc)]
