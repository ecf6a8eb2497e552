"""Files of weights on the disk: checked by their digest, placed atomically, fetched once.

A file appears under its final name only when it is complete, verified and flushed to the disk. The
digests that were found are cached, so that a start need not read half a gigabyte again.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from models.locks import locked

DownloadProgress = Callable[[int, int | None], None]
"""Called with the number of bytes downloaded so far and, if known, the total."""

CHUNK = 1024 * 1024


class FetchError(Exception):
    """A source could not be used. The message is one short sentence for the user."""


class DigestCheck:
    """Hashes a stream and compares the result with a published digest.

    Args:
        digest: ``sha256:<64 digits>``, ``sha256-prefix:<first digits>``, ``md5:<32 digits>`` or
            ``git-blob:<40 digits>``, the name of the file in its publisher's Git repository.
        size: Bytes of the stream; needed for ``git-blob``.
    """

    def __init__(self, digest: str, size: int | None = None) -> None:
        kind, self._expected = digest.split(":")
        # MD5 and SHA-1 only protect against damage. They are used where the publisher gives nothing
        # better, for files that are read as plain numbers.
        if kind == "md5":
            self._hash = hashlib.md5(usedforsecurity=False)
        elif kind == "git-blob":
            if size is None:
                raise ValueError("the size is a part of a git-blob digest")
            self._hash = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        else:
            self._hash = hashlib.sha256()

    def update(self, data: bytes) -> None:
        self._hash.update(data)

    def passed(self) -> bool:
        return self._hash.hexdigest().startswith(self._expected)


def has_digest(path: Path, digest: str) -> bool:
    """Whether a file has that digest; reads all of it.

    Raises:
        OSError: The file cannot be read.
    """
    check = DigestCheck(digest, path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            check.update(chunk)
    return check.passed()


def place(part: Path, target: Path) -> None:
    """Flush a complete, verified file to the disk and rename it to `target`."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(target)
    _sync_folder(target.parent)


def copy_checked(source: IO[bytes], target: Path, digest: str) -> None:
    """Copy a stream to `target`, which appears only if the digest is right.

    Raises:
        FetchError: The digest differs; nothing is left behind.
    """
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    check = DigestCheck(digest)
    try:
        with part.open("wb") as file:
            while chunk := source.read(CHUNK):
                check.update(chunk)
                file.write(chunk)
        if not check.passed():
            raise FetchError(f"its {target.name} is not the expected file (digest differs)")
        place(part, target)
    finally:
        part.unlink(missing_ok=True)


def fetch_lock(path: Path, *, timeout: float) -> AbstractContextManager[None]:
    """Let one process at a time fetch a file; the others wait and then find it there.

    Raises:
        FetchError: Another process held the lock for all of `timeout` seconds.
    """
    error = FetchError("another process has been fetching it for too long")
    return locked(path, timeout=timeout, error=error)


class DigestCache:
    """Remembers in `folder` which files have which digest, while size and time are unchanged.

    The cache trusts the disk: anyone who can change a file and set its time back could also change
    the cache. `opsin weights verify` reads every file again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def matches(self, path: Path, digest: str, *, reread: bool = False) -> bool:
        """Whether a file has that digest.

        Args:
            reread: Read the file even if the result is cached.

        Raises:
            OSError: The file cannot be read.
        """
        status = path.stat()
        current = {"digest": digest, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        key = hashlib.sha256(f"{path}|{digest}".encode()).hexdigest()[:24]
        entry = self._folder / f"{key}.json"
        if not reread:
            with contextlib.suppress(OSError, ValueError):
                cached = json.loads(entry.read_text())
                if cached.items() >= current.items():
                    return bool(cached["matches"])
        result = has_digest(path, digest)
        # A folder that is not writable only makes every start slower.
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            part = entry.with_suffix(".part")
            part.write_text(json.dumps(current | {"matches": result}))
            part.replace(entry)
        return result


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
