"""Files that appear beside their final name, and are renamed once they are complete.

A draft is locked while its command runs. The kernel releases the lock of a command that is killed,
so the next one that writes to that folder knows that the draft is abandoned, and removes it.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from models.locks import try_lock


@contextmanager
def draft_of(target: Path, *, mode: int) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside `target`, open for writing; it is removed unless the block renames it.

    Args:
        mode: Of the file, less the umask.

    Raises:
        OSError: It cannot be created or written.
    """
    path, lock = _new(target.parent, mode)
    try:
        with open(os.dup(lock), "wb") as file:  # noqa: PTH123 (a number)
            yield path, file
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def remove_left_over(folder: Path) -> list[Path]:
    """Remove the drafts of killed commands; returns those that cannot be removed."""
    return [path for path in folder.glob(".opsin-*.part") if not _is_removed_or_used(path)]


def _is_removed_or_used(path: Path) -> bool:
    try:
        with path.open("r+b") as file:
            if try_lock(file.fileno()):
                path.unlink()
    except FileNotFoundError:  # its owner has just finished
        return True
    except OSError:  # of another user, or on a disk without locks
        return False
    return True


def _new(folder: Path, mode: int) -> tuple[Path, int]:
    while True:
        path = folder / f".opsin-{secrets.token_hex(8)}.part"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            if try_lock(file) and path.exists():  # no other command has removed it before the lock
                return path, file
        except OSError:  # a disk without locks, where none is removed
            return path, file
        os.close(file)
