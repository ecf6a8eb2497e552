"""How much of anything a dataset may have; every reader and writer of one is bound by these."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import Unavailable
from contracts.settings import Settings

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds.

    Attributes:
        archive_bytes: Size of an upload.
        files: Entries of an archive or a folder, folders counted.
        total_bytes: All that an archive unpacks to, whether it is kept or not.
        image_bytes: Size of one picture.
        image_pixels: Its width times its height.
        free_bytes: What must stay free on the disk.
        ratio: Unpacked bytes for each byte of the archive. Deflate reaches 1,032; photos stay
            near 1, and bitmaps of little content seldom exceed 100.
        ratio_floor: Unpacked bytes below which the ratio says nothing.
        depth: Folders in folders.
        name_bytes: Length of a path in UTF-8.
    """

    archive_bytes: int = 2048 * MIB
    files: int = 200_000
    total_bytes: int = 8192 * MIB
    image_bytes: int = 16 * MIB
    image_pixels: int = 50_000_000
    free_bytes: int = 512 * MIB
    ratio: int = 200
    ratio_floor: int = 64 * MIB
    depth: int = 16
    name_bytes: int = 1024

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """The limits that the settings draw."""
        return cls(
            archive_bytes=settings.max_dataset_upload_bytes,
            files=settings.max_dataset_files,
            total_bytes=settings.max_dataset_bytes,
            image_bytes=settings.max_image_bytes,
            image_pixels=settings.max_image_pixels,
            free_bytes=settings.min_free_disk_bytes,
        )

    def require_room(self, folder: Path, wanted: int) -> None:
        """Check that the disk would still have room after `wanted` more bytes.

        Raises:
            Unavailable: It would not.
        """
        if shutil.disk_usage(folder).free - wanted < self.free_bytes:
            raise no_room()


def no_room() -> Unavailable:
    """The refusal of what the disk cannot hold."""
    return Unavailable(
        "The service's disk has no room for this. Delete datasets that are not needed, "
        "or ask its operator for more.",
        retry_after=60,
    )
