"""Random bytes for the ids of requests and images, of which every request takes several.

Each call of `os.urandom` gives the interpreter lock away, and a busy event loop waits up to half a
millisecond to get it back. So the system is asked for the bytes of some hundred ids at a time.
Keys and tokens come from `secrets`.
"""

import os
import struct
from collections.abc import Iterator

MAX_BYTES = 16
_PIECE = struct.Struct(f"{MAX_BYTES}s")
_PIECES = 256


class _Source:
    """Pieces of random bytes, none of which is given twice, in any thread."""

    def __init__(self) -> None:
        self._pieces: Iterator[tuple[bytes]] = iter(())

    def take(self) -> bytes:
        while True:
            for (piece,) in self._pieces:  # one step of an iterator is atomic
                return piece
            self._pieces = _PIECE.iter_unpack(os.urandom(MAX_BYTES * _PIECES))

    def empty(self) -> None:
        self._pieces = iter(())


_SOURCE = _Source()
# A child process must not give away what its parent has.
os.register_at_fork(after_in_child=_SOURCE.empty)


def random_bytes(count: int) -> bytes:
    """So many random bytes, at most `MAX_BYTES`."""
    if not 0 < count <= MAX_BYTES:
        raise ValueError(f"an id has 1 to {MAX_BYTES} bytes")
    return _SOURCE.take()[:count]


def random_hex(count: int) -> str:
    """So many random bytes in hexadecimal digits, two for each."""
    return random_bytes(count).hex()
