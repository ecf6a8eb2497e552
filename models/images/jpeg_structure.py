"""Where a JPEG ends and how many scans it has, found without decoding it.

A phone's file goes on after the JPEG: the video of a motion photo, a second exposure, a gain map, a
depth map, padding. None of it belongs to the image, and all of it may contain bytes that look like
markers. So the markers are followed from segment to segment, as a decoder does, up to the first end
marker.
"""

import re
from dataclasses import dataclass
from typing import Final

from contracts.errors import InvalidImage

END_MARKER: Final = b"\xff\xd9"

# In entropy-coded data, 0xFF is followed by 0. Restart markers and fill bytes end nothing.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_START, _END, _SCAN, _STANDALONE = 0xD8, 0xD9, 0xDA, 0x01
_APP1, _EXIF = 0xE1, b"Exif\0\0"
_QUANTIZATION = 0xDB
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# A camera writes about ten scans, an encoder's own script seldom thirty. Each one costs a pass
# over all pixels and as little as 70 bytes, so 16 MiB could keep a core busy for an hour.
_MAX_SCANS = 64
_MAX_SEGMENTS = 50_000  # the largest metadata of a real file has some hundreds
# Pillow joins the blocks of EXIF one by one, each time copying all before it: 49,000 of one byte
# behind one of 8 MB would take a minute. And it reads these tables in Python, some hundred bytes of
# which are in a real file.
_MAX_EXIF_BLOCKS = 64
_MAX_TABLE_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True)
class JpegStructure:
    """What a JPEG consists of.

    Attributes:
        end: Position after the end marker; None if there is none.
        scans: Number of scans.
    """

    end: int | None
    scans: int


def read_structure(raw: bytes) -> JpegStructure:
    """Follow the markers of a JPEG from its first to its end marker.

    Raises:
        InvalidImage: It has more scans, segments or tables than any real file.
    """
    at, scans, blocks, tables = 2, 0, 0, 0
    for _ in range(_MAX_SEGMENTS):
        marker = _MARKER.search(raw, at)
        if marker is None:
            return JpegStructure(None, scans)
        kind, at = raw[marker.end() - 1], marker.end()
        if kind == _END:
            return JpegStructure(at, scans)
        if kind in (_START, _STANDALONE):
            continue
        scans += kind == _SCAN
        if scans > _MAX_SCANS:
            raise InvalidImage(
                f"The JPEG has more than {_MAX_SCANS} progressive scans. "
                "Save it again as a plain (baseline) JPEG."
            )
        size = max(2, int.from_bytes(raw[at : at + 2]))
        blocks += kind == _APP1 and raw.startswith(_EXIF, at + 2)
        tables += size if kind == _QUANTIZATION or kind in _FRAMES else 0
        if blocks > _MAX_EXIF_BLOCKS or tables > _MAX_TABLE_BYTES:
            break
        at += size
    raise InvalidImage(
        "The JPEG consists of too many tiny pieces. Save it again with another program."
    )
