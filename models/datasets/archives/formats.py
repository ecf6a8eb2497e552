"""Detects by its first bytes whether an upload is a zip, a tar or a gzipped tar."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from contracts.errors import InvalidArchive, OpsinError
from models.datasets.archives.folder import read_folder
from models.datasets.archives.limits import Limits
from models.datasets.archives.members import Member
from models.datasets.archives.name_encoding import NameReader
from models.datasets.archives.tar import GZIP, is_tar_header, read_tar
from models.datasets.archives.zip import read_zip
from models.images.formats import sniff

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_BLOCK = 512
_TAR_MAGIC_OFFSET = 257
_WHAT_TO_DO = "Pack the folders of your classes into a zip, tar or tar.gz."
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a rar archive"),
    (b"\xfd7zXZ\0", "compressed by xz"),
    (b"BZh", "compressed by bzip2"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"\x04\x22\x4d\x18", "compressed by lz4"),
    (b"\x1f\x9d", "compressed by compress (.Z)"),
    (b"LZIP", "compressed by lzip"),
    (b"\x5d\0\0", "compressed by lzma"),
    (b"MSCF", "a cabinet file"),
    (b"PK\x07\x08", "one of several parts of a zip, which have to be put together first"),
    (b"!<arch>", "an ar archive"),
    (b"070701", "a cpio archive"),
    (b"PAR1", "a Parquet file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x80\x04\x95", "a Python pickle, which is never opened"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"%PDF", "a PDF"),
    (b"version https://git-lfs", "a pointer of Git LFS: fetch the file itself (git lfs pull)"),
)
_WEB_PAGE = (b"<!doctype html", b"<html", b"<?xml", b"<head")


def read_source(path: Path, limits: Limits, names: NameReader) -> Iterator[Member]:
    """The files in an archive or a folder, whatever its name is.

    Raises:
        InvalidArchive: It is neither, or it is damaged, malicious or too large.
    """
    if path.is_dir():
        return read_folder(path, limits, names)
    head = _head(path, limits)
    if head.startswith(_ZIP):
        return read_zip(path, limits, names)
    has_magic = head.startswith(GZIP) or head[_TAR_MAGIC_OFFSET:].startswith(b"ustar")
    if has_magic or is_tar_header(head):
        return read_tar(path, limits, names)
    if zipfile.is_zipfile(path):  # behind something else, such as a program that unpacks it
        return read_zip(path, limits, names)
    raise InvalidArchive(f"{_what_it_is(head)} {_WHAT_TO_DO}")


def _head(path: Path, limits: Limits) -> bytes:
    try:
        if not path.is_file():
            raise InvalidArchive("There is no such file or folder.")
        with path.open("rb") as file:
            head = file.read(_BLOCK)
        size = path.stat().st_size
    except OSError as error:
        raise InvalidArchive("The archive cannot be read. Check its permissions.") from error
    if size > limits.archive_bytes:
        raise InvalidArchive(
            f"An archive may have at most {limits.archive_bytes:,} bytes. Split it up."
        )
    return head


def _what_it_is(head: bytes) -> str:
    """A sentence about an upload that is no archive of a known kind."""
    if not head:
        return "The file is empty."
    for magic, name in _OTHERS:
        if head.startswith(magic):
            return f"This is {name}, and not a zip, tar or tar.gz."
    if head.lstrip(b"\xef\xbb\xbf \r\n\t").lower().startswith(_WEB_PAGE):
        return "This is a web page, and not an archive: its download has probably failed."
    try:
        return (
            f"This is a single {sniff(head)} image, which can be added to a dataset by "
            "POST /v1/datasets/{dataset_id}/images."
        )
    except OpsinError:
        return "This is not a zip, tar or tar.gz."
