"""Whether a file is the one it should be, judged by the digest its publisher gives.

The one way a file comes under its final name: whole, checked, on the disk, at once.

What digests were found, so that a start does not read half a gigabyte to learn it again.

Why a source gave nothing.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import IO

CHUNK = 1024 * 1024


class Check:
    """Digests a stream and compares it with what was promised.

    Args:
        digest: ``sha256:<64 digits>``, ``sha256-prefix:<first digits>`` or ``md5:<32 digits>``.
    """

    def __init__(self, digest: str) -> None:
        kind, self._promised = digest.split(":")
        # md5 guards against damage only; it stands where the publisher gives nothing better, for
        # files that come over TLS and are read as plain numbers.
        self._hash = hashlib.md5(usedforsecurity=False) if kind == "md5" else hashlib.sha256()

    def update(self, data: bytes) -> None:
        self._hash.update(data)

    def passed(self) -> bool:
        return self._hash.hexdigest().startswith(self._promised)


def matches(path: Path, digest: str) -> bool:
    """Whether the file at `path` has that digest; reads it all.

    Raises:
        OSError: The file cannot be read.
    """
    check = Check(digest)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            check.update(chunk)
    return check.passed()


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


class Stamps:
    """Remembers in `folder` which files have which digest, as long as size and time stay.

    This trusts the disk, not the world: whoever can change a file and set its time back could as
    well change the stamp. `opsin weights verify` reads everything again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def matches(self, path: Path, digest: str, *, again: bool = False) -> bool:
        """Whether the file at `path` has that digest.

        Args:
            path: The file.
            digest: As `Check` takes it.
            again: Read the file even if a stamp knows.

        Raises:
            OSError: The file cannot be read.
        """
        status = path.stat()
        now = {"digest": digest, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        stamp = (
            self._folder / f"{hashlib.sha256(f'{path}|{digest}'.encode()).hexdigest()[:24]}.json"
        )
        if not again:
            with contextlib.suppress(OSError, ValueError):
                known = json.loads(stamp.read_text())
                if known.items() >= now.items():
                    return bool(known["matches"])
        result = matches(path, digest)
        # A folder that cannot be written to costs time at every start, and nothing else.
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            part = stamp.with_suffix(".part")
            part.write_text(json.dumps(now | {"matches": result}))
            part.replace(stamp)
        return result


class FetchError(Exception):
    """A source could not be used. The message is one short sentence for the user's eyes."""
