"""Reads PBM, PGM and PPM: the plain formats of old face and road sign datasets.

Pillow reads the rarer kinds (levels other than 0 to 255, levels in decimal) with a loop over every
pixel in Python, which holds the interpreter lock. NumPy reads all of them at once.
"""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from contracts.errors import InvalidImage

# Numbers are separated by white space, and by comments up to the end of the line.
_NUMBER = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])+(\d{1,10})")
_COMMENT = re.compile(rb"#[^\r\n]*")
_SPACE = b" \t\n\r\v\f"
_HEADER_BYTES = 4096
_MAX_COMMENTS = 10_000  # millions of them would hold the interpreter lock for seconds
_MAX_LEVEL = 65_535
_BITMAP, _COLOR = (1, 4), (3, 6)
_FIRST_BINARY = 4


@dataclass(frozen=True, slots=True)
class NetpbmHeader:
    """The header of a file.

    Attributes:
        kind: 1 to 6, the digit after the P.
        size: (width, height) in pixels.
        max_level: The level of white.
        start: Position of the first level.
    """

    kind: int
    size: tuple[int, int]
    max_level: int
    start: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the levels: (height, width) or (height, width, 3)."""
        height, width = self.size[::-1]
        return (height, width, 3) if self.kind in _COLOR else (height, width)


def read_header(raw: bytes) -> NetpbmHeader:
    """Read the header.

    Raises:
        InvalidImage: It is damaged.
    """
    kind, at, numbers = raw[1] - ord("0"), 2, []
    for _ in range(2 if kind in _BITMAP else 3):
        found = _NUMBER.match(raw, at, _HEADER_BYTES)
        if found is None:
            raise InvalidImage("The header of the PBM, PGM or PPM is damaged. Send another file.")
        numbers.append(int(found[1]))
        at = found.end()
    width, height, *levels = numbers
    max_level = levels[0] if levels else 1
    if not (width and height and 0 < max_level <= _MAX_LEVEL):
        raise InvalidImage("The header of the PBM, PGM or PPM has a size or level out of range.")
    return NetpbmHeader(kind, (width, height), max_level, at + 1)


def decode_netpbm(raw: bytes, header: NetpbmHeader) -> Image.Image:
    """Decode the image, as ``L`` or ``RGB``.

    Raises:
        InvalidImage: Levels are missing or out of range.
    """
    levels = _binary(raw, header) if header.kind >= _FIRST_BINARY else _plain(raw, header)
    if levels is None:
        raise InvalidImage(
            "The PBM, PGM or PPM data ends before the image is complete, or is damaged. "
            "Send all of the file."
        )
    levels = levels.reshape(header.shape)
    if header.kind in _BITMAP:
        return Image.fromarray(np.where(levels == 0, np.uint8(255), np.uint8(0)))  # 1 is black
    if header.max_level != 255:
        levels = (levels.astype(np.uint32) * 255 + header.max_level // 2) // header.max_level
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def _binary(raw: bytes, header: NetpbmHeader) -> npt.NDArray[np.generic] | None:
    """The levels of a file that stores them as bytes; None if some are missing."""
    height, width = header.shape[:2]
    if header.kind in _BITMAP:
        row = (width + 7) // 8
        if len(raw) < header.start + row * height:
            return None
        packed = np.frombuffer(raw, np.uint8, row * height, header.start).reshape(height, row)
        return np.unpackbits(packed, axis=1, count=width)
    kind = np.dtype(">u2" if header.max_level > 255 else np.uint8)
    count = int(np.prod(header.shape))
    if len(raw) < header.start + count * kind.itemsize:
        return None
    return np.frombuffer(raw, kind, count, header.start)


def _plain(raw: bytes, header: NetpbmHeader) -> npt.NDArray[np.generic] | None:
    """The levels of a file that stores them in decimal; None if some are missing."""
    count = int(np.prod(header.shape))
    if raw.count(b"#", header.start) > _MAX_COMMENTS:
        return None
    text = _COMMENT.sub(b"", raw[header.start :])
    if header.kind in _BITMAP:  # digits need not be separated
        digits = np.frombuffer(text.translate(None, _SPACE), np.uint8)[:count] - ord("0")
        return digits if len(digits) == count and digits.max() <= 1 else None
    if len(text) < 2 * count - 1:
        return None
    levels = np.fromstring(text, np.int64, sep=" ")[:count]
    is_valid = len(levels) == count and levels.min() >= 0 and levels.max() <= header.max_level
    return levels if is_valid else None
