"""Takes what was sent, file by file: each picture is decoded before it is kept.

What is kept lies under the hash of its bytes, so that the same picture sent twice is stored once
and no name of a stranger ever becomes a name on the disk.
"""

import errno
import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from contracts.errors import ImageTooLarge, InvalidImage
from contracts.training.datasets import DatasetFile
from models.datasets.archives.limits import Limits, no_room
from models.datasets.archives.members import Member, is_hidden
from models.images.decode import decode
from models.images.formats import ImageFormat, sniff

Told = Callable[[int, str], None]
"""Called at every file with how many are done and which one is next; what it raises ends it all."""

PICTURES = "files"
_ROOM_EVERY = 64  # files between two looks at the free disk
_ENDINGS: dict[ImageFormat, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
}


@dataclass(frozen=True, slots=True)
class _Thumb:
    """The smallest use of a picture that still decodes all of it."""

    input_size: tuple[int, int] = (16, 16)
    short_side: int = 16


@dataclass(frozen=True, slots=True)
class Admission:
    """Keeps pictures in one folder.

    Args:
        folder: Of the dataset; pictures go into `files` below it.
        limits: Of one picture, and of the disk.
        told: Hears of every file.
    """

    folder: Path
    limits: Limits
    told: Told

    def take(self, members: Iterable[Member]) -> list[DatasetFile]:
        """Every file with what became of it; no labels, splits and duplicates are judged yet.

        Raises:
            OpsinError: What ends all of it, see `models.datasets.archives.formats` and `Limits`.
        """
        (self.folder / PICTURES).mkdir(exist_ok=True)
        found: dict[str, DatasetFile] = {}
        for count, member in enumerate(members):
            self.told(count, member.path)
            if count % _ROOM_EVERY == 0:
                self.limits.require_room(self.folder, _ROOM_EVERY * self.limits.image_bytes // 16)
            one = self._taken(member)
            if one.id in found:
                other = f"{member.path} (again, {count})"
                one = rejected(other, "duplicate_name", "An earlier file has the same path.")
            found[one.id] = one
        return list(found.values())

    def _taken(self, member: Member) -> DatasetFile:
        if is_hidden(member.path):
            return rejected(member.path, "hidden", "It is a hidden or a system's file.")
        if member.fault is not None:
            return rejected(member.path, *member.fault)
        try:
            data = member.read(self.limits.image_bytes + 1)
        except OSError:
            return rejected(member.path, "unreadable", "It could not be read.")
        if len(data) > self.limits.image_bytes:
            detail = f"A picture may have {self.limits.image_bytes:,} bytes."
            return rejected(member.path, "file_too_large", detail)
        return self.keep(member.path, data)

    def keep(self, path: str, data: bytes) -> DatasetFile:
        """Decode a picture and store it, unless it is none."""
        try:
            kind = sniff(data)
        except InvalidImage as fault:
            return rejected(path, "not_an_image", fault.detail, size=len(data))
        try:
            picture = decode(
                data, network=_Thumb(), resize="squash", max_pixels=self.limits.image_pixels
            )
        except ImageTooLarge as fault:
            return rejected(path, "image_too_large", fault.detail, size=len(data))
        except InvalidImage as fault:
            return rejected(path, "damaged_image", fault.detail, size=len(data))
        digest = hashlib.sha256(data).hexdigest()
        self._store(content_path(self.folder, digest), data)
        misnamed = PurePosixPath(path).suffix.lower() not in _ENDINGS[kind]
        return DatasetFile(
            id=file_id(path),
            path=path,
            status="admitted",
            sha256=digest,
            size=len(data),
            width=picture.width,
            height=picture.height,
            media_type=f"image/{kind.lower()}",
            code="misnamed" if misnamed else None,
            detail=f"Its name does not say so, but it is a {kind}." if misnamed else None,
            action="kept" if misnamed else None,
        )

    def _store(self, path: Path, data: bytes) -> None:
        if path.exists():
            return
        path.parent.mkdir(exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            draft.write_bytes(data)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            raise no_room() from error
        draft.rename(path)


def content_path(folder: Path, sha256: str) -> Path:
    """Where a dataset keeps the picture of that hash."""
    return folder / PICTURES / sha256[:2] / sha256


def file_id(path: str) -> str:
    """The id of a file, from its path, which is its own within a dataset."""
    return f"file_{hashlib.sha256(path.encode('utf-8', 'replace')).hexdigest()[:24]}"


def rejected(path: str, code: str, detail: str, *, size: int = 0) -> DatasetFile:
    """A file that is left out."""
    return DatasetFile(
        id=file_id(path),
        path=path,
        status="rejected",
        size=size,
        code=code,
        detail=detail,
        action="left out",
    )
