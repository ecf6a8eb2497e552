"""Reads the tar of a backup into an empty folder, and trusts nothing in it before it is compared.

A member is a plain file with a name that a backup may have, and is written under no other; links,
devices, doubles and names that lead elsewhere end it. Modes and owners are ours, not the tar's.
The digests come last, so what was unpacked is only used when this has returned.
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
from cli.backup.packing import Told, line
from cli.output import CommandError
from contracts.errors import InvalidArchive
from models.datasets.archives.tar import careful_headers

_CHUNK = 1024 * 1024
_LONGEST_HEADER = 64 * 1024
_NONE = CommandError("This is no backup of Opsin: it does not begin as one.")
_OTHER = CommandError(
    "It holds more or less, which is not what was backed up: the backup is damaged. "
    "Nothing was restored."
)
_CUT = CommandError("The backup is cut off or damaged. Nothing was restored.")


@contextmanager
def opened(archive: Path) -> Iterator[tuple[Header, str, tarfile.TarFile]]:
    """A backup, its header read, and the header's sha256 in hex, which tells it from all others.

    Raises:
        CommandError: It is none, or cannot be read.
    """
    try:
        with archive.open("rb") as file, _tar(file) as tar:
            header, sha256 = _header(tar)
            yield header, sha256, tar
    except FileNotFoundError:
        raise CommandError(f"There is no file {archive}.") from None
    except (tarfile.TarError, InvalidArchive, EOFError, ValueError, OverflowError):
        raise _CUT from None


def _tar(file: IO[bytes]) -> tarfile.TarFile:
    try:
        # Reads the first member's header too.
        return tarfile.open(fileobj=file, mode="r:", tarinfo=careful_headers())
    except (tarfile.TarError, InvalidArchive):
        raise _NONE from None


def _header(tar: tarfile.TarFile) -> tuple[Header, str]:
    member = _next(tar)
    if member is None or member.name != HEADER or member.size > _LONGEST_HEADER:
        raise _NONE
    try:
        told = _content(tar, member).read()
        return Header.model_validate_json(told), hashlib.sha256(told).hexdigest()
    except ValidationError:
        raise CommandError(
            "The backup was written by a later Opsin, or is none. Restore it with that release."
        ) from None


def unpack(
    tar: tarfile.TarFile, header: Header, header_sha256: str, into: Path, told: Told
) -> None:
    """Write all members below a folder and compare them with their digests.

    Args:
        tar: From `opened`, read up to the header.
        header: From `opened`.
        header_sha256: From `opened`.
        into: An empty folder.
        told: Of the progress.

    Raises:
        CommandError: It holds what no backup holds, or not what was backed up.
        OSError: The disk does not take it.
    """
    found, files, size = into / DIGESTS, 0, 0
    with found.open("x", encoding="utf-8") as digests:
        digests.write(line(header_sha256, HEADER))
        while True:
            member = _next(tar)
            if member is None:
                raise _CUT
            if member.name == DIGESTS:
                break
            path = into / checked(member.name, header)
            files, size = files + 1, size + member.size
            if files > header.files or size > header.size:
                raise _OTHER  # before the disk is filled with it
            sha256 = _write(_content(tar, member), member.size, path, told)
            digests.write(line(sha256, member.name))
    with found.open("rb") as ours:
        _compare(ours, _content(tar, member))
    if (more := _next(tar)) is not None:
        raise foreign(more.name)
    if (files, size) != (header.files, header.size):
        raise _OTHER
    os.sync()


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    """The next member, if it is a plain file; None at the end."""
    member = tar.next()
    vars(tar).update(members=[], pax_headers={})  # it would remember every one of them
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


def _write(content: IO[bytes], size: int, path: Path, told: Told) -> str:
    """Write a file that is not there yet; returns its sha256 in hex."""
    digest, left = hashlib.sha256(), size
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except (FileExistsError, NotADirectoryError):
        raise foreign(path.name) from None
    with open(handle, "wb") as file:  # noqa: PTH123  a number
        while left:
            data = content.read(min(left, _CHUNK))
            if not data:
                raise _CUT
            file.write(data)
            digest.update(data)
            left -= len(data)
            told(len(data))
    return digest.hexdigest()


def _compare(ours: IO[bytes], theirs: IO[bytes]) -> None:
    """Line for line, so that what differs can be named."""
    for mine in ours:
        given = theirs.readline(len(mine) + 1)
        if given != mine:
            name = mine.decode().rstrip("\n").partition("  ")[2]
            raise CommandError(
                f"{name} is not what was backed up: the backup is damaged. Nothing was restored."
            )
    if theirs.read(1):
        raise _CUT
