"""Reads untrusted zip archives. The whole directory is checked before anything is unpacked.

`zipfile` does the reading. These claims, which `zipfile` would accept, are checked first: the
number of entries (each costs memory), that they do not overlap (overlapping entries make the
densest zip bombs), their names, and that each entry is a file.
"""

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from contracts.errors import InvalidArchive
from models.datasets.archives.arrays import is_arrays, read_arrays
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
from models.datasets.archives.name_encoding import NameReader

_DIRECTORY_BYTES = 512  # an entry of the directory, with a long name
_END = b"PK\x05\x06"
_END_SIZE = 22
_MAX_COMMENT_BYTES = 65_535
_DISK_IN_ZIP_64 = 0xFFFF
_END_64 = b"PK\x06\x06"
_LOCATOR_64 = b"PK\x06\x07"
_LOCATOR_64_SIZE = 20
_ENTRY = b"PK\x01\x02"
_ENTRY_SIZE = 46
_LOCAL_SIZE = 30
_ENCRYPTED = 0x1
_UTF_8 = 0x800
_DOS_FOLDER = 0x10
_FIELD_SIZE = 4  # of the head of an extra field
_MAX_EXTRA_BYTES = 4096  # in the directory; `zipfile` takes quadratic time for many tiny fields
_UNICODE_PATH = 0x7075
_UNICODE_PATH_HEAD = 5
_UNIX = 3
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
# Not read: `zipfile` unpacks the first two without a limit, and does not know the others.
_OTHER_METHODS = {
    zipfile.ZIP_BZIP2: "bzip2",
    zipfile.ZIP_LZMA: "LZMA",
    9: "Deflate64",
    93: "Zstandard",
    95: "xz",
    98: "PPMd",
}
_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, struct.error)
_PART_OF_SEVERAL = (
    "The zip is one of several parts. Put them together first (zip -s 0 parts.zip --out whole.zip)."
)
_DAMAGED = "The zip is damaged or truncated. Pack it again and send all of it."


def read_zip(path: Path, limits: Limits, names: NameReader) -> Iterator[Member]:
    """The files of a zip.

    Raises:
        InvalidArchive: The archive is damaged, malicious or too large.
    """
    with _translated_errors(), path.open("rb") as file:
        _check_count(file, limits)
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            decoded = _decoded_names(entries, names, limits)
            _check_entries(entries, decoded, archive.start_dir, path.stat().st_size, limits)
            if is_arrays(decoded):
                yield from read_arrays(archive, dict(zip(decoded, entries, strict=True)), limits)
                return
            for entry, text in zip(entries, decoded, strict=True):
                name = checked_name(text, limits)
                if not _is_folder(entry, text) and name:
                    yield _member(archive, entry, name, limits)


def _decoded_names(entries: list[zipfile.ZipInfo], names: NameReader, limits: Limits) -> list[str]:
    """The names of the entries, of which only some say that they are UTF-8."""
    said: dict[int, str] = {}
    raw: dict[int, bytes] = {}
    for place, entry in enumerate(entries):
        if entry.flag_bits & _UTF_8:
            said[place] = entry.orig_filename
            continue
        # `zipfile` has decoded it so, and each byte is a character of that encoding.
        stored = require_short(entry.orig_filename.encode("cp437"), limits)
        unicode_path = _unicode_path(entry.extra, stored)
        if unicode_path is None:
            raw[place] = stored
        else:
            said[place] = unicode_path
    guessed = names.read(set(raw.values()))
    return [said[at] if at in said else guessed[raw[at]] for at in range(len(entries))]


def _unicode_path(extra: bytes, stored: bytes) -> str | None:
    """The name in UTF-8 that Info-ZIP and 7-Zip keep beside that of the local code page."""
    at = 0
    while len(extra) - at >= _FIELD_SIZE:
        kind, size = struct.unpack_from("<HH", extra, at)
        at += _FIELD_SIZE + size
        field = extra[at - size : at]
        if kind == _UNICODE_PATH and len(field) > _UNICODE_PATH_HEAD:
            version, crc = struct.unpack_from("<BL", field)
            # It belongs to the stored name, which another program may have changed since.
            if version == 1 and crc == zlib.crc32(stored):
                try:
                    return field[_UNICODE_PATH_HEAD:].decode()
                except UnicodeDecodeError:
                    return None
    return None


def _is_folder(entry: zipfile.ZipInfo, name: str) -> bool:
    if name.endswith(("/", "\\")):
        return True
    return entry.file_size == 0 and bool(entry.external_attr & _DOS_FOLDER)


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Translate what `zipfile` raises for data that is not a zip; it documents only the first."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise InvalidArchive(
            "Names in the zip claim to be UTF-8 and are not. Pack it again, with another program."
        ) from error
    except (*_ERRORS, ValueError, OverflowError) as error:
        raise InvalidArchive(_DAMAGED) from error


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str, limits: Limits) -> Member:
    if entry.file_size > limits.image_bytes:
        detail = f"It has {entry.file_size:,} bytes; an image may have {limits.image_bytes:,}."
        return Member(name, entry.file_size, read_nothing, ("file_too_large", detail))

    def read(limit: int) -> bytes:
        with _translated_errors(), archive.open(entry) as file:
            data = file.read(limit)
        if len(data) < min(limit, entry.file_size):
            raise InvalidArchive(_DAMAGED)
        return data

    return Member(name, entry.file_size, read)


def _check_entries(
    entries: list[zipfile.ZipInfo], names: list[str], directory: int, size: int, limits: Limits
) -> None:
    """Check every entry by its directory record."""
    if not entries:
        raise InvalidArchive("The zip is empty. Pack the folders of your classes into it.")
    total = 0
    for entry, name in zip(entries, names, strict=True):
        checked_name(name, limits)
        _check_kind(entry, printable(name))
        total += entry.file_size
    if total > limits.total_bytes:
        raise too_large(limits)
    if total > limits.ratio_floor and total > limits.ratio * size:
        raise InvalidArchive(
            f"It claims to unpack to more than {limits.ratio} times its size. Pack only images."
        )
    _check_overlaps(entries, directory)


def _check_kind(entry: zipfile.ZipInfo, name: str) -> None:
    if entry.flag_bits & _ENCRYPTED:
        raise InvalidArchive(f"'{name}' is encrypted. Pack the images without a password.")
    if entry.compress_type not in _METHODS:
        method = _OTHER_METHODS.get(entry.compress_type, "an uncommon method")
        raise InvalidArchive(
            f"'{name}' is compressed by {method}, which is not read. Pack the zip again with the "
            "usual method, 'deflate', or uncompressed."
        )
    kind = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == _UNIX else 0
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise InvalidArchive(
            f"'{name}' is a link or a device. Pack the images themselves, not links to them."
        )


def _check_overlaps(entries: list[zipfile.ZipInfo], directory: int) -> None:
    """Check that the data of each entry ends before that of the next begins."""
    ordered = sorted(entries, key=lambda entry: entry.header_offset)
    starts = [entry.header_offset for entry in ordered[1:]] + [directory]
    for entry, limit in zip(ordered, starts, strict=True):
        # A lower bound: the local header may also have an extra field.
        length = _LOCAL_SIZE + len(entry.orig_filename) + entry.compress_size
        if entry.header_offset < 0 or entry.header_offset + length > limit:
            raise InvalidArchive(
                "Entries of the zip overlap, as in a zip bomb, or it is damaged. Pack it again."
            )


def _check_count(file: BinaryIO, limits: Limits) -> None:
    """Count the directory records before `zipfile` creates an object for each entry."""
    start, size = _directory(file)
    if size > _DIRECTORY_BYTES * (limits.files + 1):
        raise InvalidArchive("The zip's list of files is too long. Pack the images again.")
    file.seek(start)
    left, count = size, 0
    while left >= _ENTRY_SIZE:
        head = file.read(_ENTRY_SIZE)
        if len(head) < _ENTRY_SIZE or not head.startswith(_ENTRY):
            raise InvalidArchive(_DAMAGED)
        count += 1
        if count > limits.files:
            raise too_many(limits)
        lengths = struct.unpack_from("<3H", head, 28)
        if lengths[1] > _MAX_EXTRA_BYTES:
            raise InvalidArchive("The zip's list of files is too long. Pack the images again.")
        skip = sum(lengths)
        file.seek(skip, 1)
        left -= _ENTRY_SIZE + skip
    file.seek(0)


def _directory(file: BinaryIO) -> tuple[int, int]:
    """Offset and size of the directory, in bytes."""
    length = file.seek(0, 2)
    tail_offset = max(0, length - _END_SIZE - _MAX_COMMENT_BYTES)
    file.seek(tail_offset)
    tail = file.read()
    position = tail.rfind(_END)
    if position < 0 or len(tail) - position < _END_SIZE:
        raise InvalidArchive(_DAMAGED)
    disk, _, _, _, size = struct.unpack_from("<4HL", tail, position + 4)
    if disk not in {0, _DISK_IN_ZIP_64}:
        raise InvalidArchive(_PART_OF_SEVERAL)
    end = tail_offset + position
    file.seek(max(0, end - _LOCATOR_64_SIZE))
    locator = file.read(_LOCATOR_64_SIZE)
    if locator.startswith(_LOCATOR_64):
        # As in `zipfile`: the record is right before its locator and has no extensible part.
        record_offset = end - _LOCATOR_64_SIZE - 56
        file.seek(max(0, record_offset))
        record = file.read(56)
        if record.startswith(_END_64):
            size = struct.unpack_from("<Q", record, 40)[0]
            end = record_offset
    if size > end:
        raise InvalidArchive(_DAMAGED)
    return end - size, size
