"""The structure of a container says whether its end is missing."""

import struct
import time

import numpy as np
import pytest

from models.faces.liveness.video_formats import AVI, MP4, WEBM, VideoFormat
from models.faces.liveness.video_structure import is_cut_off, is_endless

EBML = b"\x1aE\xdf\xa3\x84webm"
SEGMENT, CLUSTER = b"\x18S\x80g", b"\x1fC\xb6u"
UNKNOWN = b"\x01" + b"\xff" * 7
BLOCK = b"\xa3\x84abcd"


def box(name: bytes, size: int, content: bytes) -> bytes:
    return struct.pack(">I4s", size, name) + content


def chunk(name: bytes, size: int, content: bytes) -> bytes:
    return struct.pack("<4sI", name, size) + content


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        (MP4, box(b"ftyp", 12, b"isom") + box(b"mdat", 12, b"abcd"), False),
        (MP4, box(b"ftyp", 12, b"isom") + box(b"mdat", 13, b"abcd"), True),
        (MP4, box(b"mdat", 1, struct.pack(">Q", 20) + b"abcd"), False),
        (MP4, box(b"mdat", 1, struct.pack(">Q", 2**63) + b"abcd"), True),
        (MP4, box(b"mdat", 1, struct.pack(">Q", 0) + b"abcd"), False),  # never completed
        (MP4, box(b"mdat", 0, b"abcd"), False),  # to the end of the file
        (MP4, box(b"moov", 8, b"") + box(b"moof", 9, b""), True),
        (MP4, box(b"moov", 8, b"") + box(b"SEFT", 900, b"a maker's trailer"), False),
        (MP4, box(b"moov", 8, b"") + b"\0\0\0", False),
        (WEBM, EBML + SEGMENT + UNKNOWN + CLUSTER + UNKNOWN + BLOCK * 2, False),
        (WEBM, EBML + SEGMENT + UNKNOWN + CLUSTER + UNKNOWN + BLOCK + BLOCK[:-1], True),
        (WEBM, EBML + SEGMENT + UNKNOWN + CLUSTER + UNKNOWN + BLOCK + BLOCK[:1], True),
        (WEBM, EBML + SEGMENT + UNKNOWN + CLUSTER + UNKNOWN[:4], True),
        (WEBM, EBML + SEGMENT + b"\x86" + BLOCK, False),
        (WEBM, EBML + SEGMENT + b"\x87" + BLOCK, True),
        (WEBM, EBML + SEGMENT + UNKNOWN + CLUSTER + b"\x8c" + BLOCK * 2, False),
        (WEBM, EBML + SEGMENT + UNKNOWN + CLUSTER + b"\x8d" + BLOCK * 2, True),
        (WEBM, EBML + SEGMENT + UNKNOWN + BLOCK + bytes(40), False),  # padded
        (AVI, chunk(b"RIFF", 16, b"AVI " + chunk(b"00dc", 3, b"abc\0")), False),
        (AVI, chunk(b"RIFF", 15, b"AVI " + chunk(b"00dc", 3, b"abc")), False),
        (AVI, chunk(b"RIFF", 16, b"AVI " + chunk(b"00dc", 4, b"abc")), True),
        (AVI, chunk(b"RIFF", 0, b"AVI " + chunk(b"LIST", 0, b"movi" + chunk(b"00dc", 0, b""))), 0),
        (AVI, chunk(b"RIFF", 900, b"AVI " + chunk(b"00dc", 4, b"abcd")), True),
    ],
)
def test_an_element_that_ends_after_the_file(
    kind: VideoFormat, data: bytes, expected: bool
) -> None:
    assert is_cut_off(data, kind) is bool(expected)
    assert is_cut_off(memoryview(data), kind) is bool(expected)


@pytest.mark.parametrize("kind", [MP4, WEBM, AVI])
def test_any_bytes_have_an_answer(kind: VideoFormat) -> None:
    random = np.random.default_rng(0)
    for _ in range(3000):
        data = random.integers(0, 256, random.integers(0, 64), np.uint8).tobytes()
        assert is_cut_off(EBML + SEGMENT + UNKNOWN + data, kind) in {True, False}
        assert is_cut_off(data, kind) in {True, False}


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (MP4, box(b"free", 8, b"") * 2_000_000),
        (WEBM, b"\xec\x80" * 8_000_000),
        (AVI, chunk(b"JUNK", 0, b"") * 2_000_000),
    ],
)
def test_millions_of_elements_take_no_longer(kind: VideoFormat, data: bytes) -> None:
    started = time.process_time()
    assert is_cut_off(data, kind) is False
    assert time.process_time() - started < 1


def test_fragments_without_frames_are_endless() -> None:
    """FFmpeg reads all of them before the first frame, in quadratic time."""
    fragment, frames = box(b"moof", 8, b""), box(b"mdat", 8, b"")
    head = box(b"ftyp", 8, b"") + box(b"moov", 8, b"")
    assert is_endless(head + fragment * 100_000, MP4)
    assert not is_endless(head + (fragment + frames) * 10_000, MP4)
    assert not is_endless(EBML + SEGMENT + UNKNOWN, WEBM)
