"""Files that are read in parts, as slowly as a client takes them, of which few are open at a time.

Each of a thousand downloads would otherwise hold an open file beside its connection, and the system
allows a process so many of both together.
"""

import os
import threading
import weakref
from collections.abc import Callable, Iterator

MAX_HELD = 32
"""Files of a process that are open between two parts."""

_PART_BYTES = 256 * 1024
_places = threading.BoundedSemaphore(MAX_HELD)


class ReplacedError(Exception):
    """Another file has this one's name, and no place was free to hold this one."""


class HeldFile:
    """One version of a file, read to the end whatever takes its name meanwhile.

    A file of one part is read at once. Of larger ones, those beyond `MAX_HELD` are opened again for
    each part, and are read only until they are replaced.

    Args:
        open_file: Opens the file of that name; returns its descriptor.

    Attributes:
        stat: Of this version.
        content: All of it, if it is one part.
        close: Call it when nothing more is read; otherwise it is called when nothing refers to it.
    """

    def __init__(self, open_file: Callable[[], int]) -> None:
        self._open = open_file
        self.content: bytes | None = None
        file, is_held = open_file(), False
        try:
            self.stat = os.fstat(file)
            if self.stat.st_size <= _PART_BYTES:
                self.content = os.pread(file, _PART_BYTES, 0)
            else:
                is_held = _places.acquire(blocking=False)
        finally:
            if not is_held:
                os.close(file)
        self._file = file if is_held else None
        self.close = weakref.finalize(self, _release, file) if is_held else lambda: None

    def read(self, offset: int = 0) -> Iterator[bytes]:
        """The content from an offset on.

        Raises:
            ReplacedError: It is no longer there.
            OSError: It cannot be read, or no longer.
        """
        if self.content is not None:
            yield self.content[offset:]
            return
        while part := self._part(offset):
            offset += len(part)
            yield part

    def _part(self, offset: int) -> bytes:
        if self._file is not None:
            return os.pread(self._file, _PART_BYTES, offset)
        file = self._open()
        try:
            if _version(os.fstat(file)) != _version(self.stat):
                raise ReplacedError
            return os.pread(file, _PART_BYTES, offset)
        finally:
            os.close(file)


def _version(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _release(file: int) -> None:
    os.close(file)
    _places.release()
