"""The one way a file comes under its final name: whole, checked, on the disk, at once."""

import os
from pathlib import Path
from typing import IO

from models.fetching.digest import CHUNK, Check
from models.fetching.failure import FetchError


def place(part: Path, target: Path) -> None:
    """Rename a finished, checked `part` to `target` after the disk holds it."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(target)
    _sync_folder(target.parent)


def copy_checked(source: IO[bytes], target: Path, digest: str) -> None:
    """Stream `source` to `target`, which appears only if the digest is right.

    Raises:
        FetchError: The digest differs; nothing is left behind.
    """
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    check = Check(digest)
    try:
        with part.open("wb") as file:
            while chunk := source.read(CHUNK):
                check.update(chunk)
                file.write(chunk)
        if not check.passed():
            raise FetchError(f"{target.name} there is not the file it should be (digest differs)")
        place(part, target)
    finally:
        part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
