"""Leaves out what a PNG need not have: text, timestamps, private chunks, damaged ancillary chunks.

Editors store their documents and histories in a PNG, of any size, and the standard lets a decoder
ignore all of it. Pillow reads it all and refuses a file for the size or the checksum of a comment.
So it gets the chunks that its pixels depend on.
"""

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Final

import numpy as np

from contracts.errors import InvalidImage

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

_END = b"\0\0\0\0IEND\xaeB`\x82"
_APPLE = b"CgBI"
_CHECKSUM_BYTES = 4  # Adler-32, at the end of a zlib stream
_ANCILLARY = 0x20  # set in the first letter of the name
# A large photo in chunks of 4 kB has some thousands. In a loop over millions of tiny ones the
# interpreter lock would be held for seconds.
_MAX_CHUNKS = 50_000
_MAX_METADATA_BYTES = 1 << 20  # Pillow's own limit, beyond which it refuses the file
_COLOR_TYPE_AT = 25  # in the header, which is the first chunk
# How long the transparency is: one gray level, one color, or a byte for each color of a palette.
_TRANSPARENCY_BYTES = {b"\0": (2,), b"\2": (6,), b"\3": range(1, 257)}
# The texts where an orientation may be; XMP is not compressed, so that other programs can find it.
_XMP, _EXIF = b"XML:com.adobe.xmp\0\0", b"Raw profile type exif\0"
# The ancillary chunks that change what an image looks like, and how they begin.
_USEFUL = {
    b"tRNS": b"",
    b"eXIf": b"",
    b"iCCP": b"",
    b"iTXt": _XMP,
    b"tEXt": _EXIF,
    b"zTXt": _EXIF,
}
# Of chunks of one name, until one is good: unpacking each of ten thousand would take half a minute.
_MAX_LOOKS = 4
# Of 16-bit RGB, gray with alpha and RGBA: the bytes of the color and of the whole pixel.
_DEEP_BYTES: Final = {2: (6, 6), 4: (2, 4), 6: (6, 8)}
_PIECE_BYTES = 1 << 20


def only_needed(raw: bytes) -> bytes:
    """A PNG without the chunks that its pixels do not depend on.

    Raises:
        InvalidImage: It consists of too many chunks, or is no standard PNG.
    """
    parts, kept = [SIGNATURE], set()
    looks: Counter[bytes] = Counter()
    for name, start, end in _chunks(raw):
        if name == _APPLE:
            raise InvalidImage(
                "The PNG was changed for an iPhone app, and only iOS can read it. "
                "Send the original file."
            )
        is_needed = not name[0] & _ANCILLARY
        if not is_needed and name not in kept and _may_be_useful(name, raw, start):
            looks[name] += 1
            is_needed = looks[name] <= _MAX_LOOKS and _is_useful(
                name, raw[start:end], color_type=raw[_COLOR_TYPE_AT : _COLOR_TYPE_AT + 1]
            )
            if is_needed:
                kept.add(name)
        if is_needed:
            parts.append(raw[start:end])
    parts.append(_END)
    return b"".join(parts)


def without_checksum(raw: bytes) -> bytes | None:
    """A PNG without the checksum over its pixels, which is not needed to unpack them.

    None if the checksum of a chunk of pixels is wrong: then the data was damaged on its way, and
    not written with a wrong checksum.
    """
    others, pixels, place = [SIGNATURE], [], 0
    for name, start, end in _chunks(raw):
        chunk = raw[start:end]
        if name != b"IDAT":
            others.append(chunk)
            continue
        if not _is_undamaged(chunk):
            return None
        place = place or len(others)
        pixels.append(chunk[8:-4])
    body = b"IDAT" + b"".join(pixels)[:-_CHECKSUM_BYTES]
    joined = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return b"".join([*others[:place], joined, *others[place:], _END])


def is_black(raw: bytes) -> bool:
    """Whether all colors of a PNG with 16-bit RGB, RGBA or gray and alpha are zero.

    Rows are stored as differences from their neighbors; those of zeros are zeros. An interlaced
    image, whose rows have several lengths, counts as black.
    """
    width, interlaced = struct.unpack(">I", raw[16:20])[0], raw[28]
    colors, pixel = _DEEP_BYTES[raw[_COLOR_TYPE_AT]]
    row, stream, rest = 1 + width * pixel, zlib.decompressobj(), b""
    if interlaced:
        return True
    for name, start, end in _chunks(raw):
        packed = raw[start + 8 : end - 4] if name == b"IDAT" else b""
        while packed:
            rest += stream.decompress(packed, max(row, _PIECE_BYTES))
            packed = stream.unconsumed_tail
            whole = len(rest) - len(rest) % row
            rows = np.frombuffer(rest[:whole], np.uint8).reshape(-1, row)[:, 1:]
            if rows.reshape(-1, pixel)[:, :colors].any():
                return False
            rest = rest[whole:]
    return True


def _chunks(raw: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each chunk; the last one may be incomplete."""
    at = len(SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        head = raw[at : at + 8]
        if len(head) < 8 or head[4:] == b"IEND":
            return
        end = at + 12 + int.from_bytes(head[:4])
        yield head[4:], at, min(end, len(raw))
        at = end
    raise InvalidImage(
        "The image consists of too many tiny pieces. Save it again with another program."
    )


def _may_be_useful(name: bytes, raw: bytes, start: int) -> bool:
    """Whether an ancillary chunk may change what the image looks like; costs next to nothing."""
    beginning = _USEFUL.get(name)
    return beginning is not None and raw.startswith(beginning, start + 8)


def _is_useful(name: bytes, chunk: bytes, *, color_type: bytes) -> bool:
    """Whether a chunk that `_may_be_useful` is undamaged and what the standard says."""
    body = chunk[8:-4]
    is_useful = True
    match name:
        case b"tRNS":
            is_useful = len(body) in _TRANSPARENCY_BYTES.get(color_type, ())
        case b"iCCP":
            is_useful = _is_readable(body.partition(b"\0")[2][1:])
        case b"zTXt":
            is_useful = _is_readable(body[len(_EXIF) + 1 :])
    if len(body) > _MAX_METADATA_BYTES:
        return False
    return is_useful and _is_undamaged(chunk)


def _is_undamaged(chunk: bytes) -> bool:
    return struct.pack(">I", zlib.crc32(chunk[4:-4])) == chunk[-4:]


def _is_readable(compressed: bytes) -> bool:
    """Whether it can be uncompressed, to no more than Pillow accepts."""
    stream = zlib.decompressobj()
    try:
        stream.decompress(compressed, _MAX_METADATA_BYTES)
    except zlib.error:
        return False
    return stream.eof
