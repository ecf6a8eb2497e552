"""Staging folders, in which a version or a dataset is assembled before it is published.

A staging folder lies in the store, so that one rename publishes it. Its owner holds a lock file
next to it. The kernel releases the lock when the owner is killed, so the next sweep knows that
the folder is abandoned.
"""

import ctypes
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from contracts.files import flush_entries
from models.locks import locked, try_lock

_FEW = 16


class Staging:
    """The staging area of one store.

    Args:
        root: Created on first use. Must be on the file system of the store.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sweep_lock = root / ".lock"

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A new, empty folder, which is removed when the block ends."""
        self.sweep()
        name = uuid.uuid4().hex
        path = self._root / name
        lock = _lock_of(path)
        # A sweep must not see a folder whose lock is not held yet.
        with locked(self._sweep_lock):
            holder = lock.open("w")
            try_lock(holder)
            path.mkdir()
        try:
            yield path
        finally:
            _remove(lock)
            holder.close()

    def sweep(self) -> list[str]:
        """Remove the folders that killed processes left behind; return their names."""
        if not self._root.is_dir():
            return []
        with locked(self._sweep_lock):
            # Earlier releases left folders without a lock file.
            locks = {*self._root.glob("?*.lock"), *map(_lock_of, self._folders())}
            return [lock.stem for lock in locks if _removed(lock)]

    def left(self) -> list[Path]:
        """The folders of killed processes that no sweep has removed yet, or could remove."""
        return [folder for folder in self._folders() if not _is_held(folder) and folder.is_dir()]

    def is_empty(self) -> bool:
        """Whether no folder is in use or stays, once those of killed processes are removed."""
        if not self._folders():
            return True
        self.sweep()
        return not self._folders()

    def _folders(self) -> list[Path]:
        if not self._root.is_dir():
            return []
        return [path for path in self._root.iterdir() if path.is_dir()]


def backup_copies(jobs_home: Path) -> Staging:
    """Where each backup that runs has its copy of the database and links to all files of people."""
    return Staging(jobs_home / ".staging")


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _is_held(folder: Path) -> bool:
    # Its owner has locked the file before it makes the folder, so this cannot keep it from that.
    try:
        with _lock_of(folder).open() as file:
            return not try_lock(file)
    except FileNotFoundError:
        return False


def _removed(lock: Path) -> bool:
    try:
        file = lock.open("r+")
    except FileNotFoundError:  # its owner has just finished, or there never will be one
        return lock.with_suffix("").is_dir() and _remove(lock)
    with file:
        if not try_lock(file):
            return False
        return _remove(lock)


def _remove(lock: Path) -> bool:
    """Remove a folder and its lock file, which stays for the next sweep if the folder does."""
    folder = lock.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        return False
    lock.unlink(missing_ok=True)
    return True


def flush(folder: Path) -> None:
    """Flush every file below `folder`, and the folders' entries, to the disk."""
    for directory, _, names in os.walk(folder):
        for name in names:
            flush_entries(Path(directory) / name)
        flush_entries(Path(directory))


def flush_all(paths: Sequence[Path]) -> None:
    """Flush files, and the entries of folders, on one file system to the disk.

    Many are flushed by one call for the whole file system, where there is one: a disk then writes
    them in its own order, and not one after the other.
    """
    if len(paths) <= _FEW or not _flush_file_system(paths[0]):
        for path in paths:
            flush_entries(path)


def _flush_file_system(path: Path) -> bool:
    """Flush the file system of `path`; False if this system has no call for it."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if call is None:
        return False
    handle = os.open(path, os.O_RDONLY)
    try:
        if call(handle) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(handle)
    return True
