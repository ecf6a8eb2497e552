"""Decompressors end, whatever follows the data."""

import gzip
import zlib
from collections.abc import Callable

import pytest

from service.http.decompression import CODINGS, CorruptBodyError


def _decompressed(coding: str, data: bytes, limit: int) -> bytes:
    """All output, as `service.middleware.content_encoding` asks for it."""
    stream, output, sent = CODINGS[coding](), b"", False
    for _ in range(1000):
        is_due = stream.needs_input and not sent
        piece = stream.decompress(data if is_due else b"", limit)
        sent = sent or is_due
        output += piece
        if sent and stream.needs_input and not piece:
            assert stream.is_finished
            return output
    raise AssertionError("it never ends")


@pytest.mark.parametrize("limit", [1, 3, 1000])
@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_zeros_after_the_data_end_it(
    coding: str, pack: Callable[[bytes], bytes], limit: int
) -> None:
    assert _decompressed(coding, pack(b"image") + bytes(10), limit) == b"image"


def test_zeros_between_members_are_skipped() -> None:
    packed = gzip.compress(b"one ") + bytes(10) + gzip.compress(b"two") + bytes(10)
    assert _decompressed("gzip", packed, 1000) == b"one two"


@pytest.mark.parametrize("tail", [b"more", b"\0more"])
def test_other_data_after_the_end_is_refused(tail: bytes) -> None:
    with pytest.raises(CorruptBodyError):
        _decompressed("gzip", gzip.compress(b"image") + tail, 1000)
