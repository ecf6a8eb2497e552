"""Detects by its first bytes whether an upload is a zip, a tar or a gzipped tar."""

from collections.abc import Iterator
from pathlib import Path

from contracts.errors import InvalidArchive
from models.datasets.archives.folder import read_folder
from models.datasets.archives.limits import Limits
from models.datasets.archives.members import Member
from models.datasets.archives.tar import GZIP, read_tar
from models.datasets.archives.zip import read_zip

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_TAR_MAGIC_OFFSET = 257


def read_source(path: Path, limits: Limits) -> Iterator[Member]:
    """The files in an archive or a folder, whatever its name is.

    Raises:
        InvalidArchive: It is neither, or it is damaged, malicious or too large.
    """
    if path.is_dir():
        return read_folder(path, limits)
    try:
        if not path.is_file():
            raise InvalidArchive("There is no such file or folder.")
        with path.open("rb") as file:
            head = file.read(512)
        size = path.stat().st_size
    except OSError as error:
        raise InvalidArchive("The archive cannot be read. Check its permissions.") from error
    if size > limits.archive_bytes:
        raise InvalidArchive(
            f"An archive may have at most {limits.archive_bytes:,} bytes. Split it up."
        )
    if head.startswith(_ZIP):
        return read_zip(path, limits)
    if head.startswith(GZIP) or head[_TAR_MAGIC_OFFSET:].startswith(b"ustar"):
        return read_tar(path, limits)
    raise InvalidArchive(
        "This is not a zip, tar or tar.gz. Pack the folders of your classes into one of these."
    )
