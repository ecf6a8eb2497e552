"""Reads the list of erased subjects, a file of the home that no restore replaces.

A backup from before an erasure brings the subject back; with this list the erasure is repeated, and
versions that were trained on the subject are refused. Ids are random and say nothing about a
person. `database.faces.privacy.erased_ids` writes it.
"""

import re
from collections.abc import Set as AbstractSet
from functools import cache
from pathlib import Path
from threading import Lock

from contracts.faces.subjects import SUBJECT_ID

FILE = "erased-subjects"


class ErasedIds:
    """The list in memory; safe to share among threads.

    Lines are only added, so of a file that has grown only the rest is read.

    Args:
        home: The folder of the file.
    """

    def __init__(self, home: Path) -> None:
        self._path = home / FILE
        self._lock = Lock()
        self._state: tuple[int, ...] = ()
        self._ids: set[str] = set()
        self._read = 0  # bytes, to the end of the last whole line

    def require_readable(self) -> None:
        """Look at the file without reading it.

        Raises:
            OSError: It cannot be read.
        """
        self._look()

    def ids(self) -> AbstractSet[str]:
        """All ids of the list. Others may add to the set meanwhile: copy it to iterate over it.

        Raises:
            OSError: It cannot be read.
        """
        with self._lock:
            # What is written between this and reading is read the next time.
            if (state := self._look()) != self._state:
                self._read_on(state)
            return self._ids

    def _look(self) -> tuple[int, ...]:
        """Inode, size in bytes and time of the file; empty if there is none."""
        try:
            file = self._path.stat()
        except FileNotFoundError:
            return ()
        return file.st_ino, file.st_size, file.st_mtime_ns

    def _read_on(self, state: tuple[int, ...]) -> None:
        has_grown = state[:1] == self._state[:1] and state[1:2] > self._state[1:2]
        if not has_grown:
            self._ids, self._read = set(), 0
        if state:
            with self._path.open("rb") as file:
                file.seek(self._read)
                content = file.read()
            lines = content.decode("ascii", errors="replace").split()
            self._ids.update(line for line in lines if re.match(SUBJECT_ID, line))
            self._read += content.rfind(b"\n") + 1
        self._state = state


@cache
def list_of(home: Path) -> ErasedIds:
    """The list of a home, once for the process."""
    return ErasedIds(home)


def erased_ids(home: Path) -> frozenset[str]:
    """All ids of a home's list at this moment.

    Raises:
        OSError: It cannot be read.
    """
    return frozenset(list_of(home).ids())
