"""Decides which files of an upload become part of a dataset. Each image is decoded first.

Images are stored under the hash of their content. The same image sent twice is therefore stored
once, and no file name of a client ever becomes a file name on the disk.
"""

import errno
import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from contracts.errors import ImageTooLarge, InvalidImage
from contracts.training.datasets import DatasetFile
from models.datasets.archives.limits import MIB, Limits, disk_full
from models.datasets.archives.members import Member, is_hidden
from models.datasets.labels_file import SUFFIXES
from models.images.decode import InputSpec, decode
from models.images.formats import ImageFormat, media_type, sniff
from models.rendering.png import is_explanation

ImportProgress = Callable[[int, str], None]
"""Called before each file with the number of files done and the next path. An exception that it
raises ends the import."""

FILES = "files"
_FILES_PER_DISK_CHECK = 64
_MAX_TABLES = 64
_MAX_TABLE_BYTES = 32 * MIB  # of all together
_SMALLEST_INPUT = InputSpec.square(16)  # decodes all of an image at the lowest cost
_IMAGE_SUFFIXES: dict[ImageFormat, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "HEIF": (".heic", ".heif", ".heics", ".heifs", ".hif"),
    "AVIF": (".avif", ".avifs"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}


@dataclass(slots=True)
class _LargeImages:
    """Bounds the large images of an import: two kilobytes may take a second to decode."""

    limits: Limits
    sent_bytes: int = 0
    pixels: int = 0

    def admit(self, pixels: int) -> AbstractContextManager[object]:
        """The gate of a large image.

        Raises:
            ImageTooLarge: Those before it leave no room.
        """
        most = self.limits.large_pixels + self.limits.large_pixels_per_byte * self.sent_bytes
        if self.pixels + pixels > most:
            raise ImageTooLarge(
                f"It has {pixels:,} pixels, and the large images before it {self.pixels:,}; "
                f"together they may have {most:,}. Scale them down, or import them in parts."
            )
        self.pixels += pixels
        return self.limits.large_image(pixels)


@dataclass(frozen=True, slots=True)
class FileAdmission:
    """Checks files and stores the images among them in the folder of a dataset.

    Attributes:
        folder: The folder of the dataset; images are stored in `files` below it.
        tables: Paths and contents of files that may be tables of labels, as `admit_all` finds
            them.
    """

    folder: Path
    limits: Limits
    progress: ImportProgress | None = None
    tables: list[tuple[str, bytes]] = field(default_factory=list)
    _large: _LargeImages = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Begin to count."""
        object.__setattr__(self, "_large", _LargeImages(self.limits))

    def admit_all(self, members: Iterable[Member]) -> list[DatasetFile]:
        """Check every file; labels, splits and duplicates are determined later.

        Raises:
            OpsinError: The whole import failed, see `models.datasets.archives.formats` and
                `Limits`.
        """
        (self.folder / FILES).mkdir(exist_ok=True)
        files: dict[str, DatasetFile] = {}
        for count, member in enumerate(members):
            if self.progress is not None:
                self.progress(count, member.path)
            if count % _FILES_PER_DISK_CHECK == 0:
                self.limits.require_room(
                    self.folder, _FILES_PER_DISK_CHECK * self.limits.image_bytes // 16
                )
            file = self._admit_member(member)
            if file.id in files:
                path = f"{member.path} (again, {count})"
                file = rejected(path, "duplicate_name", "An earlier file has the same path.")
            files[file.id] = file
        return list(files.values())

    def _admit_member(self, member: Member) -> DatasetFile:
        if is_hidden(member.path):
            return rejected(member.path, "hidden", "It is a hidden file or a system file.")
        if member.fault is not None:
            return rejected(member.path, *member.fault)
        try:
            data = member.read(self.limits.image_bytes + 1)
        except OSError:
            return rejected(member.path, "unreadable", "It could not be read.")
        if len(data) > self.limits.image_bytes:
            detail = f"An image may have at most {self.limits.image_bytes:,} bytes."
            return rejected(member.path, "file_too_large", detail)
        file = self.admit(member.path, data)
        if file.status == "rejected":
            self._keep_table(member.path, data)
        return file

    def _keep_table(self, path: str, data: bytes) -> None:
        total = len(data) + sum(len(content) for _, content in self.tables)
        suffix = PurePosixPath(path).suffix.lower()
        if suffix in SUFFIXES and total <= _MAX_TABLE_BYTES and len(self.tables) < _MAX_TABLES:
            self.tables.append((path, data))

    def admit(self, path: str, data: bytes) -> DatasetFile:
        """Decode an image and store it, or reject the file if it is not one."""
        self._large.sent_bytes += len(data)
        if is_explanation(data):
            detail = "It is a heatmap or another image that Opsin has drawn, not a photo."
            return rejected(path, "explanation", detail, size=len(data))
        try:
            image_format = sniff(data)
        except InvalidImage as error:
            return rejected(path, "not_an_image", error.detail, size=len(data))
        try:
            image = decode(
                data,
                network=_SMALLEST_INPUT,
                resize="squash",
                max_pixels=self.limits.image_pixels,
                large=self._large.admit,
            )
        except ImageTooLarge as error:
            return rejected(path, "image_too_large", error.detail, size=len(data))
        except InvalidImage as error:
            return rejected(path, "damaged_image", error.detail, size=len(data))
        digest = hashlib.sha256(data).hexdigest()
        _store(content_path(self.folder, digest), data)
        misnamed = PurePosixPath(path).suffix.lower() not in _IMAGE_SUFFIXES[image_format]
        detail = f"It is a {image_format} file, although its name does not say so."
        return DatasetFile(
            id=file_id(path),
            path=path,
            status="admitted",
            sha256=digest,
            size=len(data),
            width=image.width,
            height=image.height,
            media_type=media_type(image_format),
            code="misnamed" if misnamed else None,
            detail=detail if misnamed else None,
            action="kept" if misnamed else None,
        )


def _store(path: Path, data: bytes) -> None:
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(data)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise disk_full() from error
    draft.rename(path)


def content_path(folder: Path, sha256: str) -> Path:
    """Where a dataset stores the image with that hash."""
    return folder / FILES / sha256[:2] / sha256


def file_id(path: str) -> str:
    """The id of a file, derived from its path, which is unique within a dataset."""
    return f"file_{hashlib.sha256(path.encode('utf-8', 'replace')).hexdigest()[:24]}"


def rejected(path: str, code: str, detail: str, *, size: int = 0) -> DatasetFile:
    """A file that is left out of the dataset."""
    return DatasetFile(
        id=file_id(path),
        path=path,
        status="rejected",
        size=size,
        code=code,
        detail=detail,
        action="left out",
    )
