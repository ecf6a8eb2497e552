"""Reads untrusted tar archives, plain or gzipped, as a stream; `tarfile` never unpacks them.

`tarfile` parses the headers. These claims of an archive, which `tarfile` would accept, are checked
first: the length of extension headers (which are read into memory as a whole), sparse files
(petabytes of zeros from one block), and that the archive ends where its headers become invalid.
"""

import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from contracts.errors import InvalidArchive
from models.datasets.archives.limits import Limits
from models.datasets.archives.members import (
    Member,
    checked_name,
    printable,
    read_nothing,
    require_short,
    too_large,
    too_many,
)
from models.datasets.archives.name_encoding import UTF_8, NameReader
from models.images.formats import describe

GZIP = b"\x1f\x8b"
_BLOCK = 512
_MAGIC_OFFSET = 257
_CHUNK = 64 * 1024
_MAX_EXTENSION_BYTES = 64 * 1024
_MAX_NAMES_BYTES = 64 * 1024 * 1024  # of all together, in memory; they compress to next to nothing
_MAX_EXTENSIONS = 8  # before one file; ordinary archives have one to three
_MAX_EMPTY_MEMBERS = 1000
_MAX_RECORDS = 256  # of an extension header; attributes of macOS are a dozen
_MAX_KEYWORD = 512  # bytes
_SMALLEST_RECORD = 5  # "5 x=\n"
_MANY_DIGITS = re.compile(rb"[0-9]{200}")  # no number is that long
_SPARSE = b"GNU.sparse."
_EXTENSIONS = frozenset(
    {
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    }
)
# A label (tar --label), and the list of a folder's files (tar --listed-incremental).
_NO_FILES = frozenset({b"V", b"D"})
_CONTINUED = b"M"
_NO_END = (
    "The tar has no end mark, so that it has probably been cut off. "
    "Send all of it, or pack it again with a program that finishes it (or as a zip or tar.gz)."
)
_DAMAGED = "The archive is damaged or truncated. Pack it again and send all of it."


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _ReadAgain:
    """A file from which something was read already, and is read once more.

    Args:
        file: `tarfile` also asks it where it is, only after what is read again.
    """

    def __init__(self, again: bytes, file: Any) -> None:
        self._again = again
        self._file = file

    def read(self, size: int) -> bytes:
        data, self._again = self._again[:size], self._again[size:]
        return data or bytes(self._file.read(size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _Header(tarfile.TarInfo):
    """A header block that is checked before it is used.

    `chain` counts consecutive extension headers, which `tarfile` reads recursively. It is a class
    attribute, so each archive has a subclass of its own (`checked_headers`).

    `has_begun` says that a header was valid.

    `may_lack_end` says that the archive is known to be whole, though it has no end mark.
    """

    chain = 0
    has_begun = False
    may_lack_end = False

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not any(buf):
                if len(buf) == _BLOCK or cls.may_lack_end:
                    raise  # the end
                raise InvalidArchive(_NO_END) from error
            if buf[:4] == b"PK\3\4":
                raise InvalidArchive("The gzip contains a zip. Send the zip itself.") from error
            if not cls.has_begun and buf[_MAGIC_OFFSET:][:5] != b"ustar":
                raise InvalidArchive(
                    f"The gzip contains {describe(bytes(buf))}, and not a tar. Pack the folders of "
                    "your classes into a tar.gz."
                ) from error
            raise InvalidArchive(_DAMAGED) from error
        cls.has_begun = True
        if header.type in _EXTENSIONS and header.size > _MAX_EXTENSION_BYTES:
            raise InvalidArchive("A name or a comment in the archive is too long. Pack it again.")
        cls.chain = cls.chain + 1 if header.type in _EXTENSIONS else 0
        if header.size < 0 or cls.chain > _MAX_EXTENSIONS:
            raise InvalidArchive(_DAMAGED)
        return header

    def _proc_sparse(self, archive: tarfile.TarFile) -> Any:  # noqa: ARG002 - of `tarfile`
        """Refuse a sparse file before its map is read."""
        raise _sparse(printable(self.name))

    def _proc_pax(self, archive: tarfile.TarFile) -> Any:
        """Check the records of an extension header before `tarfile` reads them.

        It takes quadratic time and memory for records that lie about their lengths, and for long
        numbers (CVE-2024-6232), and a minute for the map of a sparse file.
        """
        file = archive.fileobj
        assert file is not None  # noqa: S101 - narrows the type
        content = file.read(-(-self.size // _BLOCK) * _BLOCK)
        _check_records(content[: self.size].rstrip(b"\0"))
        archive.fileobj = cast(BinaryIO, _ReadAgain(content, file))
        try:
            return super()._proc_pax(archive)  # type: ignore[misc] # not in its stub
        finally:
            archive.fileobj = file


def _check_records(content: bytes) -> None:
    """Check the records of an extension header, each ``length keyword=value`` and a line's end."""
    start = 0
    for _ in range(_MAX_RECORDS):
        if start == len(content):
            break
        space = content.find(b" ", start, start + 8)
        digits = content[start:space] if space > 0 else b""
        end = start + int(digits) if digits.isdigit() else 0
        equals = content.find(b"=", space, min(end, space + _MAX_KEYWORD))
        if end - start < _SMALLEST_RECORD or equals < 0 or content[end - 1 : end] != b"\n":
            raise InvalidArchive(_DAMAGED)
        if content.startswith(_SPARSE, space + 1):
            raise _sparse("A file in it")
        start = end
    if start < len(content) or _MANY_DIGITS.search(content):
        raise InvalidArchive("An extended header of the tar is too long. Pack it again.")


def _sparse(name: str) -> InvalidArchive:
    return InvalidArchive(f"'{name}' is a sparse file. Pack without --sparse.")


def checked_headers(*, may_lack_end: bool = False) -> type[tarfile.TarInfo]:
    """A header class for one archive (`tarinfo=`), which checks each header first."""
    return type("_ArchivesHeader", (_Header,), {"may_lack_end": may_lack_end})


class _Gunzip:
    """Decompresses gzip while it is read, with zlib, which parses headers without Python loops."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._engine = zlib.decompressobj(31)
        self._empty = 0

    def read(self, size: int, /) -> bytes:
        while True:
            if self._engine.eof:
                rest = self._engine.unused_data.lstrip(b"\0")
                # What was read may have ended within the next member's first bytes.
                while len(rest) < len(GZIP) and (more := self._file.read(_CHUNK)):
                    rest = (rest + more).lstrip(b"\0")
                if not rest.startswith(GZIP):
                    return b""
                self._empty += 1
                if self._empty > _MAX_EMPTY_MEMBERS:
                    raise InvalidArchive(_DAMAGED)
                self._engine = zlib.decompressobj(31)
            else:
                rest = self._engine.unconsumed_tail or self._file.read(_CHUNK)
                if not rest:
                    raise InvalidArchive(_DAMAGED)
            data = self._engine.decompress(rest, size)
            if data:
                self._empty = 0
                return data


class _Metered:
    """Counts unpacked bytes and stops at the limits."""

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
        # Headers and end marks are not counted as files: a block or three each.
        if self._count > self._limits.total_bytes + 4 * _BLOCK * (self._limits.files + 1):
            raise too_large(self._limits)
        maximum = self._limits.ratio * self._archive_bytes
        if self._count > self._limits.ratio_floor and self._count > maximum:
            raise InvalidArchive(
                f"It unpacks to more than {self._limits.ratio} times its size. Pack only images."
            )
        return data


def read_tar(path: Path, limits: Limits, names: NameReader) -> Iterator[Member]:
    """The files of a tar or a gzipped tar.

    Raises:
        InvalidArchive: The archive is damaged, malicious or too large.
    """
    with _opened(path, limits) as archive:
        yield from _members(archive, limits, lambda header: _name(header, names, path, limits))


@contextmanager
def _opened(path: Path, limits: Limits) -> Iterator[tarfile.TarFile]:
    with path.open("rb") as file:
        is_gzipped = file.read(2) == GZIP
        file.seek(0)
        source: _Readable = _Gunzip(file) if is_gzipped else file
        metered = cast(BinaryIO, _Metered(source, path.stat().st_size, limits))
        with (
            _translated_errors(),
            tarfile.open(
                fileobj=metered,
                mode="r|",
                # A gzip that was cut off is refused as such.
                tarinfo=checked_headers(may_lack_end=is_gzipped),
                encoding=UTF_8,
                errors="surrogateescape",
            ) as archive,
        ):
            yield archive


def is_tar_header(block: bytes) -> bool:
    """Whether a block is the header of a tar, of which the oldest have no signature."""
    try:
        header = tarfile.TarInfo.frombuf(block, UTF_8, "surrogateescape")
    except tarfile.HeaderError:
        return False
    return bool(header.name)


def _name(header: tarfile.TarInfo, names: NameReader, path: Path, limits: Limits) -> str:
    if "path" in header.pax_headers:
        return header.name  # is UTF-8 by definition
    raw = require_short(_raw_name(header), limits)
    return names.read_one(raw, lambda: _all_names(path, limits))


def _all_names(path: Path, limits: Limits) -> Iterator[bytes]:
    """The names of an archive that have to be guessed; it is read once more for these few."""
    total = 0
    with _opened(path, limits) as archive:
        for count, header in enumerate(archive):
            vars(archive).update(members=[], pax_headers={})
            if count >= limits.files:
                raise too_many(limits)
            raw = require_short(_raw_name(header), limits)
            if raw.isascii():
                continue
            total += len(raw)
            if total > _MAX_NAMES_BYTES:
                raise InvalidArchive("Its names are too long together. Pack fewer files at a time.")
            yield raw


def _raw_name(header: tarfile.TarInfo) -> bytes:
    return header.name.encode(UTF_8, "surrogateescape")


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Translate what `tarfile` and zlib raise for data that is not an archive."""
    try:
        yield
    except (tarfile.TarError, zlib.error, EOFError, ValueError, OverflowError) as error:
        raise InvalidArchive(_DAMAGED) from error


def _members(
    archive: tarfile.TarFile, limits: Limits, name_of: Callable[[tarfile.TarInfo], str]
) -> Iterator[Member]:
    count = total = 0
    for header in archive:
        # `tarfile` would keep all headers in memory.
        vars(archive).update(members=[], pax_headers={})
        count += 1
        if count > limits.files:
            raise too_many(limits)
        if header.size < 0:  # as an extended header may say
            raise InvalidArchive(_DAMAGED)
        if header.type in _NO_FILES:
            continue
        name = checked_name(name_of(header), limits)
        _check_kind(header, printable(name))
        total += header.size
        if total > limits.total_bytes:
            raise too_large(limits)
        if not header.isdir() and name:
            yield _member(archive, header, name, limits)
    if count == 0:
        raise InvalidArchive("The archive is empty. Pack the folders of your classes into it.")


def _check_kind(header: tarfile.TarInfo, name: str) -> None:
    if header.issparse() or header.type == tarfile.GNUTYPE_SPARSE:
        raise _sparse(name)
    if header.type == _CONTINUED:
        raise InvalidArchive(
            f"'{name}' begins in another part. Put the parts together: pack without --multi-volume."
        )
    if not (header.isreg() or header.isdir()):
        raise InvalidArchive(
            f"'{name}' is a link, a device or a pipe. "
            "Pack the images themselves, not links to them (tar --dereference)."
        )


def _member(archive: tarfile.TarFile, header: tarfile.TarInfo, name: str, limits: Limits) -> Member:
    if header.size > limits.image_bytes:
        detail = f"It has {header.size:,} bytes; an image may have {limits.image_bytes:,}."
        return Member(name, header.size, read_nothing, ("file_too_large", detail))

    def read(limit: int) -> bytes:
        with _translated_errors():
            file = archive.extractfile(header)
            data = b"" if file is None else file.read(min(limit, header.size))
        if len(data) < min(limit, header.size):
            raise InvalidArchive(_DAMAGED)
        return data

    return Member(name, header.size, read)
