"""The limits of a dataset, which every reader and writer of one respects."""

from dataclasses import dataclass
from pathlib import Path

from contracts.errors import DiskUnusable
from contracts.files import free_bytes
from contracts.settings import MAX_IMAGE_PIXELS, Settings
from models.images.gate import Gate, at_once

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one dataset.

    Attributes:
        archive_bytes: Size of an upload.
        files: Entries of an archive or a folder, including folders.
        total_bytes: Size of everything in an archive, unpacked, whether it is stored or not.
        image_bytes: Size of one image.
        image_pixels: Width times height of one image.
        large_pixels: Of all large images together, see `models.images.gate`.
        large_pixels_per_byte: Further ones for each byte of all images. A photo seldom has more
            than ten.
        free_bytes: Space that must remain free on the disk.
        ratio: Unpacked bytes for each byte of the archive. Deflate reaches 1,032; photos stay
            near 1, and bitmaps with little content seldom exceed 100.
        ratio_floor: Unpacked bytes below which the ratio is not checked.
        depth: Nesting of folders.
        name_bytes: Length of a path in UTF-8.
        large_image: Entered while a large image is decoded, see `models.images.decode`.
    """

    archive_bytes: int = 2048 * MIB
    files: int = 200_000
    total_bytes: int = 8192 * MIB
    image_bytes: int = 16 * MIB
    image_pixels: int = MAX_IMAGE_PIXELS
    large_pixels: int = 100_000_000_000
    large_pixels_per_byte: int = 10
    free_bytes: int = 512 * MIB
    ratio: int = 200
    ratio_floor: int = 64 * MIB
    depth: int = 16
    name_bytes: int = 1024
    large_image: Gate = at_once

    @classmethod
    def of(cls, settings: Settings, large_image: Gate = at_once) -> "Limits":
        """The limits of this installation."""
        return cls(
            large_image=large_image,
            archive_bytes=settings.max_dataset_upload_bytes,
            files=settings.max_dataset_files,
            total_bytes=settings.max_dataset_bytes,
            image_bytes=settings.max_image_bytes,
            image_pixels=settings.max_image_pixels,
            free_bytes=settings.min_free_disk_bytes,
        )

    def require_room(self, folder: Path, size: int) -> None:
        """Check that the disk has room for `size` more bytes.

        Raises:
            DiskUnusable: It has not.
        """
        if free_bytes(folder) - size < self.free_bytes:
            raise disk_full()


def disk_full() -> DiskUnusable:
    """The error for an upload that does not fit on the disk."""
    return DiskUnusable(
        "The service's disk has no room for this. Delete datasets that are not needed, "
        "or ask its operator for more space.",
        retry_after=60,
    )
