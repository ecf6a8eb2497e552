"""Reads the tar of a backup into an empty folder, and trusts nothing in it before the comparison.

A member must be a plain file with a name that a backup may have; links, devices, duplicates and
names that lead elsewhere are refused. Modes and owners are ours, not the tar's. The digests come
last, so the files may be used only when `unpack` has returned.
"""

import hashlib
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from cli.backup.contents import DIGESTS, HEADER, Header, checked, foreign
from cli.backup.packing import ByteProgress, digest_line
from cli.output import CommandError
from contracts.errors import InvalidArchive
from models.datasets.archives.tar import checked_headers

_CHUNK = 1024 * 1024
_MAX_HEADER_BYTES = 16 * 1024 * 1024  # it lists who was erased meanwhile
_NOT_A_BACKUP = CommandError("This is not a backup of Opsin.")
_WRONG_SIZE = CommandError(
    "It holds more or less, which is not what was backed up: the backup is damaged. "
    "Nothing was restored."
)
_TRUNCATED = CommandError("The backup is cut off or damaged. Nothing was restored.")


@contextmanager
def opened(archive: Path) -> Iterator[tuple[Header, str, tarfile.TarFile]]:
    """Open a backup and read its header.

    Yields:
        The header, its sha256 in hex, which identifies the backup, and the tar.

    Raises:
        CommandError: It is not a backup, or cannot be read.
    """
    try:
        with archive.open("rb") as file, _tar(file) as tar:
            header, sha256 = _header(tar)
            yield header, sha256, tar
    except FileNotFoundError:
        raise CommandError(f"There is no file {archive}.") from None
    except (tarfile.TarError, InvalidArchive, EOFError, ValueError, OverflowError):
        raise _TRUNCATED from None


def _tar(file: IO[bytes]) -> tarfile.TarFile:
    try:
        # This reads the first member's header too.
        return tarfile.open(fileobj=file, mode="r:", tarinfo=checked_headers())
    except (tarfile.TarError, InvalidArchive):
        raise _NOT_A_BACKUP from None


def _header(tar: tarfile.TarFile) -> tuple[Header, str]:
    member = _next(tar)
    if member is None or member.name != HEADER or member.size > _MAX_HEADER_BYTES:
        raise _NOT_A_BACKUP
    try:
        content = _content(tar, member).read()
        return Header.model_validate_json(content), hashlib.sha256(content).hexdigest()
    except ValidationError:
        raise CommandError(
            "The backup was written by a later Opsin, or is not one. Restore it with that release."
        ) from None


def unpack(
    tar: tarfile.TarFile, header: Header, header_sha256: str, into: Path, progress: ByteProgress
) -> None:
    """Write all members below a folder and compare them with their digests.

    Args:
        tar: From `opened`, read up to the header.
        into: An empty folder.

    Raises:
        CommandError: It holds something else than was backed up.
        OSError: It cannot be written.
    """
    list_, files, size = into / DIGESTS, 0, 0
    with list_.open("x", encoding="utf-8") as digests:
        digests.write(digest_line(header_sha256, HEADER))
        while True:
            member = _next(tar)
            if member is None:
                raise _TRUNCATED
            if member.name == DIGESTS:
                break
            path = into / checked(member.name, header)
            files, size = files + 1, size + member.size
            if files > header.files or size > header.size:
                raise _WRONG_SIZE  # before it fills the disk
            sha256 = _write(_content(tar, member), member.size, path, progress)
            digests.write(digest_line(sha256, member.name))
    with list_.open("rb") as ours:
        _compare(ours, _content(tar, member))
    if (more := _next(tar)) is not None:
        raise foreign(more.name)
    if (files, size) != (header.files, header.size):
        raise _WRONG_SIZE
    os.sync()


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    """The next member, if it is a plain file; None at the end."""
    member = tar.next()
    vars(tar).update(members=[], pax_headers={})  # otherwise it keeps all of them
    if member is None:
        return None
    if not member.isreg() or member.issparse():
        raise foreign(member.name)
    return member


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    if file is None:
        raise foreign(member.name)
    return file


def _write(content: IO[bytes], size: int, path: Path, progress: ByteProgress) -> str:
    """Write a file that does not exist yet; returns its sha256 in hex."""
    digest, remaining = hashlib.sha256(), size
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except (FileExistsError, NotADirectoryError):
        raise foreign(path.name) from None
    with open(handle, "wb") as file:  # noqa: PTH123  a number
        while remaining:
            data = content.read(min(remaining, _CHUNK))
            if not data:
                raise _TRUNCATED
            file.write(data)
            digest.update(data)
            remaining -= len(data)
            progress(len(data))
    return digest.hexdigest()


def _compare(ours: IO[bytes], theirs: IO[bytes]) -> None:
    """Compare line by line, so that the file that differs can be named."""
    for mine in ours:
        if theirs.readline(len(mine) + 1) != mine:
            name = mine.decode().rstrip("\n").partition("  ")[2]
            raise CommandError(
                f"{name} is not what was backed up: the backup is damaged. Nothing was restored."
            )
    if theirs.read(1):
        raise _TRUNCATED
