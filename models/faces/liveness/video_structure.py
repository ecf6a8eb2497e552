"""Whether a video file was cut off: it ends inside one of its own elements.

FFmpeg decodes what is there and reports the end of a shortened WebM like that of a whole one. The
numbers in the header do not help, because browsers and phones write wrong ones. But every container
is a sequence of elements that begin with their size, and in a whole file each of them ends where
the file ends, or before.

Only sizes are read here, none of the contents. A file whose structure is unknown or damaged is left
to the decoder to judge.
"""

from collections.abc import Iterator

from models.faces.liveness.video_formats import AVI, WEBM, VideoFormat

# A clip of half a minute has about ten thousand; a file may consist of millions of tiny ones.
_MAX_ELEMENTS = 100_000

# Fragments that describe frames, before the first that holds some. A recording has one at a time;
# FFmpeg reads all of them first, in quadratic time.
_MAX_FRAGMENTS_AHEAD = 64

# Boxes that hold frames or describe them. Others, such as a maker's trailer, are not relied upon.
_MEDIA_BOXES = {b"ftyp", b"moov", b"moof", b"mdat"}
_BOX_HEAD, _LARGE_BOX_HEAD = 8, 16

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_MAX_ID_BYTES, _MAX_SIZE_BYTES = 4, 8

_CHUNK_HEAD, _LIST_HEAD = 8, 12
_UNKNOWN_CHUNK_SIZES = {0, 0xFFFFFFFF}  # of a list that its recorder did not complete
_CHUNK_TOLERANCE = 8  # some writers count the head of a list as a part of it


def is_cut_off(data: bytes | memoryview, video_format: VideoFormat) -> bool:
    """Whether the end of the file is missing.

    False for a recording that was cut exactly between two elements: it is the same as a shorter
    recording.
    """
    if video_format is WEBM:
        return _is_webm_cut(data)
    if video_format is AVI:
        return _is_avi_cut(data)
    return _is_mp4_cut(data)


def is_endless(data: bytes | memoryview, video_format: VideoFormat) -> bool:
    """Whether the file describes far more fragments than a recording before the first frames."""
    if video_format in {WEBM, AVI}:
        return False
    fragments = 0
    for name, _ in _boxes(data):
        fragments += name == b"moof"
        if name == b"mdat" or fragments > _MAX_FRAGMENTS_AHEAD:
            break
    return fragments > _MAX_FRAGMENTS_AHEAD


def _is_mp4_cut(data: bytes | memoryview) -> bool:
    return any(end > len(data) and name in _MEDIA_BOXES for name, end in _boxes(data))


def _boxes(data: bytes | memoryview) -> Iterator[tuple[bytes, int]]:
    """The name and end of each box: four bytes for the size, four for the name.

    Sometimes eight more for the size.
    """
    position = 0
    for _ in range(_MAX_ELEMENTS):
        head = bytes(data[position : position + _LARGE_BOX_HEAD])
        if len(head) < _BOX_HEAD:
            return
        size, name, smallest = int.from_bytes(head[:4], "big"), head[4:8], _BOX_HEAD
        if size == 1:
            size, smallest = int.from_bytes(head[8:], "big"), _LARGE_BOX_HEAD
        if size < smallest:  # 0: to the end of the file
            return
        position += size
        yield name, position


def _is_webm_cut(data: bytes | memoryview) -> bool:
    """EBML: a number for the name, one for the size; both have a variable length.

    A live recording has clusters of unknown size. What they contain is read as if it followed them.
    """
    position = 0
    for _ in range(_MAX_ELEMENTS):
        if position >= len(data):
            return position > len(data)
        id_bytes = _number_bytes(data[position], _MAX_ID_BYTES)
        size_at = position + id_bytes
        if not id_bytes or (size_at < len(data) and not data[size_at]):
            return False  # damaged
        size_bytes = _number_bytes(data[size_at], _MAX_SIZE_BYTES) if size_at < len(data) else 1
        start = size_at + size_bytes
        if start > len(data):
            return True
        name = int.from_bytes(data[position:size_at], "big")
        unknown = (1 << 7 * size_bytes) - 1
        size = int.from_bytes(data[size_at:start], "big") & unknown
        position = start
        if name in {_SEGMENT, _CLUSTER}:
            if size != unknown and start + size > len(data):
                return True
        elif size == unknown:
            return False
        else:
            position += size
    return False


def _number_bytes(first: int, most: int) -> int:
    """Length of an EBML number, from its first byte; 0 if it is longer than `most`."""
    length = 9 - first.bit_length()
    return length if length <= most else 0


def _is_avi_cut(data: bytes | memoryview) -> bool:
    """RIFF: four bytes for the name, four for the size; chunks begin at even positions."""
    position = 0
    for _ in range(_MAX_ELEMENTS):
        head = bytes(data[position : position + _CHUNK_HEAD])
        name, size = head[:4], int.from_bytes(head[4:], "little")
        if len(head) < _CHUNK_HEAD or not name.isascii() or not name.isalnum():
            return False
        end = position + _CHUNK_HEAD + size
        if name in {b"RIFF", b"LIST"}:
            if size not in _UNKNOWN_CHUNK_SIZES and end > len(data) + _CHUNK_TOLERANCE:
                return True
            position += _LIST_HEAD
        elif end > len(data):
            return True
        else:
            position = end + end % 2
    return False
