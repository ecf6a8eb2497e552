"""Decompresses request bodies a piece at a time, so that no input makes a large output at once."""

import importlib.util
import zlib
from collections.abc import Callable
from typing import Protocol

import brotli

_MAX_MEMBERS = 64  # of a gzip file; each costs more than the bytes that it takes
_MAX_WINDOW_LOG = 23  # 8 MiB, as RFC 9659 requires of zstd in HTTP


class CorruptBodyError(ValueError):
    """The data is not what its Content-Encoding says."""


class Decompressor(Protocol):
    """Decompresses one body."""

    @property
    def needs_input(self) -> bool:
        """Whether everything that was decompressed so far has been returned."""

    @property
    def is_finished(self) -> bool:
        """Whether the data is complete."""

    def decompress(self, data: bytes, limit: int) -> bytes:
        """About `limit` more bytes of output at most.

        Args:
            data: The next input; empty while `needs_input` is false.
            limit: Bytes.

        Raises:
            CorruptBodyError: The data is malformed, or goes on after its end.
        """


class _Zlib:
    """gzip, with its members one after the other; zlib; or raw deflate, which is sent as well."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._members = 1
        self._input = b""
        self._stream = zlib.decompressobj(31) if gzip else None
        self.needs_input = True
        self.is_finished = False

    def decompress(self, data: bytes, limit: int) -> bytes:
        self._input += data
        if self._stream is None:
            if len(self._input) < 2:
                return b""
            self._stream = zlib.decompressobj(15 if _is_zlib(self._input) else -15)
        if self.is_finished and not self._begins_next_member():
            self.needs_input = True
            return b""
        try:
            output = self._stream.decompress(self._input, limit)
        except zlib.error as error:
            raise CorruptBodyError(str(error)) from None
        self.is_finished = self._stream.eof
        self._input = self._stream.unused_data if self.is_finished else self._stream.unconsumed_tail
        self.needs_input = not self._input and len(output) < limit
        return output

    def _begins_next_member(self) -> bool:
        self._input = self._input.lstrip(b"\0")  # padding between members, or after the last one
        if not self._input:
            return False
        self._members += 1
        if not self._gzip or self._members > _MAX_MEMBERS:
            raise CorruptBodyError("data after the end")
        self._stream = zlib.decompressobj(31)
        return True


def _is_zlib(data: bytes) -> bool:
    return data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0


class _Brotli:
    def __init__(self) -> None:
        self._stream = brotli.Decompressor()
        self.needs_input = True

    @property
    def is_finished(self) -> bool:
        return bool(self._stream.is_finished())

    def decompress(self, data: bytes, limit: int) -> bytes:
        if data and self.is_finished:
            raise CorruptBodyError("data after the end")
        try:
            output = bytes(self._stream.process(data, output_buffer_limit=limit))
        except brotli.error as error:
            raise CorruptBodyError(str(error)) from None
        self.needs_input = self.is_finished or bool(self._stream.can_accept_more_data())
        return output


class _Zstd:
    def __init__(self) -> None:
        from backports import zstd

        self._error = zstd.ZstdError
        options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
        self._stream = zstd.ZstdDecompressor(options=options)

    @property
    def needs_input(self) -> bool:
        return bool(self._stream.eof or self._stream.needs_input)

    @property
    def is_finished(self) -> bool:
        return bool(self._stream.eof)

    def decompress(self, data: bytes, limit: int) -> bytes:
        if self._stream.eof:
            if data:
                raise CorruptBodyError("data after the end")
            return b""
        try:
            output = bytes(self._stream.decompress(data, limit))
        except self._error as error:
            raise CorruptBodyError(str(error)) from None
        if self._stream.unused_data:
            raise CorruptBodyError("data after the end")
        return output


CODINGS: dict[str, Callable[[], Decompressor]] = {
    "gzip": lambda: _Zlib(gzip=True),
    "deflate": lambda: _Zlib(gzip=False),
    "br": _Brotli,
}
"""What makes a decompressor, by the coding's name in Content-Encoding."""
# In an environment that was installed before zstd was a dependency, it is not offered.
if importlib.util.find_spec("backports") and importlib.util.find_spec("backports.zstd"):
    CODINGS["zstd"] = _Zstd
