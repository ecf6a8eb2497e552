"""Where a version is put together before it is published, and where a dead publisher's is found.

A staging folder lies in the store, so that one rename publishes it. Beside it lies a lock that
its maker holds: the kernel frees the lock when the maker is killed, and whoever sweeps next knows
by that alone that the folder is rubbish.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.store.locks import locked, try_lock


class Staging:
    """The staging area of one store.

    Args:
        root: Its folder; made on first use. Must be on the file system of the store.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._gate = root / ".lock"

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A new empty folder; what is left of it is removed when the block ends."""
        self.sweep()
        name = uuid.uuid4().hex
        path, lock = self._root / name, self._root / f"{name}.lock"
        # Made behind the gate: a sweeper must not meet a folder whose lock is not yet held.
        with locked(self._gate):
            holder = lock.open("w")
            try_lock(holder)
            path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            lock.unlink(missing_ok=True)
            holder.close()

    def sweep(self) -> list[str]:
        """Remove what killed publishers left, and name it."""
        if not self._root.is_dir():
            return []
        with locked(self._gate):
            return [lock.stem for lock in self._root.glob("?*.lock") if _removed(lock)]


def _removed(lock: Path) -> bool:
    try:
        file = lock.open("r+")
    except FileNotFoundError:  # its maker has just finished
        return False
    with file:
        if not try_lock(file):
            return False
        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        lock.unlink(missing_ok=True)
        return True


def flush(folder: Path) -> None:
    """Force every file below `folder`, and the folders' own entries, to the disk."""
    for directory, _, names in os.walk(folder):
        for name in names:
            flush_entries(Path(directory) / name)
        flush_entries(Path(directory))


def flush_entries(path: Path) -> None:
    """Force one file, or the list of names in one folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
