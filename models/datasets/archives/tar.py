"""Tar archives from strangers, plain or gzipped, read as a stream and never unpacked by `tarfile`.

`tarfile` parses the headers. What it would believe and we do not: how long a name's extension
header may be (it is read into memory whole), sparse files (petabytes of zeros from one block),
and that an archive ends where its headers stop making sense.
"""

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from contracts.errors import InvalidArchive
from models.datasets.archives.limits import Limits
from models.datasets.archives.members import (
    Member,
    checked_name,
    shown,
    too_large,
    too_many,
    unread,
)

GZIP = b"\x1f\x8b"
_BLOCK = 512
_CHUNK = 64 * 1024
_LONGEST_EXTENSION = 64 * 1024
_MOST_EXTENSIONS = 8  # before one file; honest archives have one to three
_LONGEST_EMPTY_RUN = 1000
_EXTENSIONS = frozenset(
    {
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    }
)
_DAMAGED = "The archive is damaged or cut off. Pack it again and send all of it."


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Header(tarfile.TarInfo):
    """A header block that is judged before anything is done with it.

    Each archive has a subclass of its own (`careful_headers`), for `chain` is counted on the class:
    `tarfile` reads a chain of extensions by recursion and remembers the global ones.
    """

    chain = 0

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == _BLOCK and not any(buf):
                raise  # the mark of the end
            raise InvalidArchive(_DAMAGED) from error
        if header.type in _EXTENSIONS and header.size > _LONGEST_EXTENSION:
            raise InvalidArchive("A file's name or note in the archive is endless. Pack it anew.")
        cls.chain = cls.chain + 1 if header.type in _EXTENSIONS else 0
        if header.size < 0 or cls.chain > _MOST_EXTENSIONS:
            raise InvalidArchive(_DAMAGED)
        return header


def careful_headers() -> type[tarfile.TarInfo]:
    """What one archive's headers are to be read with (`tarinfo=`): they are judged first."""
    return type("_ArchivesHeader", (_Header,), {})


class _Gunzip:
    """Unpacks gzip as it is read, by zlib itself: its header parser has no loops in Python."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._engine = zlib.decompressobj(31)
        self._empty = 0

    def read(self, size: int, /) -> bytes:
        while True:
            if self._engine.eof:
                rest = self._engine.unused_data.lstrip(b"\0") or self._file.read(_CHUNK)
                if not rest.startswith(GZIP):
                    return b""
                self._empty += 1
                if self._empty > _LONGEST_EMPTY_RUN:
                    raise InvalidArchive(_DAMAGED)
                self._engine = zlib.decompressobj(31)
            else:
                rest = self._engine.unconsumed_tail or self._file.read(_CHUNK)
                if not rest:
                    raise InvalidArchive(_DAMAGED)
            found = self._engine.decompress(rest, size)
            if found:
                self._empty = 0
                return found


class _Metered:
    """Counts what is unpacked, and stops at the limits."""

    def __init__(self, source: _Readable, archive_bytes: int, limits: Limits) -> None:
        self._source = source
        self._limits = limits
        self._archive_bytes = archive_bytes
        self._count = 0

    def read(self, size: int, /) -> bytes:
        data = b""
        while len(data) < size and (more := self._source.read(size - len(data))):
            data += more
        self._count += len(data)
        # Headers and the end marks come on top of the files: a block or three each.
        if self._count > self._limits.total_bytes + 4 * _BLOCK * (self._limits.files + 1):
            raise too_large(self._limits)
        most = self._limits.ratio * self._archive_bytes
        if self._count > self._limits.ratio_floor and self._count > most:
            raise InvalidArchive(
                f"It unpacks to more than {self._limits.ratio} times its size. Pack pictures only."
            )
        return data


def read_tar(path: Path, limits: Limits) -> Iterator[Member]:
    """The files of a tar, or of a tar in gzip.

    Raises:
        InvalidArchive: It is damaged, dishonest or too much.
    """
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        source: _Readable = _Gunzip(file) if packed else file
        metered = cast(BinaryIO, _Metered(source, path.stat().st_size, limits))
        opened = _translated()
        with opened, tarfile.open(fileobj=metered, mode="r|", tarinfo=careful_headers()) as archive:
            yield from _members(archive, limits)


@contextmanager
def _translated() -> Iterator[None]:
    """What `tarfile` and zlib raise on bytes that are no archive."""
    try:
        yield
    except (tarfile.TarError, zlib.error, EOFError, ValueError, OverflowError) as broken:
        raise InvalidArchive(_DAMAGED) from broken


def _members(archive: tarfile.TarFile, limits: Limits) -> Iterator[Member]:
    count = total = 0
    for header in archive:
        # It would remember all headers, which nobody asks for.
        vars(archive).update(members=[], pax_headers={})
        count += 1
        if count > limits.files:
            raise too_many(limits)
        name = checked_name(header.name, limits)
        _check_kind(header)
        total += header.size
        if total > limits.total_bytes:
            raise too_large(limits)
        if not header.isdir() and name:
            yield _member(archive, header, name, limits)
    if count == 0:
        raise InvalidArchive("The archive is empty. Pack the folders of your classes into it.")


def _check_kind(header: tarfile.TarInfo) -> None:
    if header.issparse() or header.type == tarfile.GNUTYPE_SPARSE:
        raise InvalidArchive(f"'{shown(header.name)}' is a sparse file. Pack without --sparse.")
    if not (header.isreg() or header.isdir()):
        raise InvalidArchive(
            f"'{shown(header.name)}' is a link, a device or a pipe. "
            "Pack the pictures themselves, not links to them (tar --dereference)."
        )


def _member(archive: tarfile.TarFile, header: tarfile.TarInfo, name: str, limits: Limits) -> Member:
    if header.size > limits.image_bytes:
        detail = f"It has {header.size:,} bytes; a picture may have {limits.image_bytes:,}."
        return Member(name, header.size, unread, ("file_too_large", detail))

    def read(limit: int) -> bytes:
        with _translated():
            file = archive.extractfile(header)
            data = b"" if file is None else file.read(min(limit, header.size))
        if len(data) < min(limit, header.size):
            raise InvalidArchive(_DAMAGED)
        return data

    return Member(name, header.size, read)
