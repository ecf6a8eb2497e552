"""The image files that a command is about, from files and folders on its command line."""

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cli.output import CommandError, notes, warn

_ENDINGS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
        *(".heic", ".heif", ".hif", ".avif", ".apng", ".mpo", ".ppm", ".pgm", ".pbm", ".pnm"),
    }
)
STDIN = Path("-")
_MAKERS_OF_COPIES = frozenset({"@eaDir", "__MACOSX"})


def find_images(given: Sequence[Path], *, recursive: bool) -> list[Path]:
    """The files in the order given; those of a folder or of a pattern are sorted by name.

    A pattern is what a shell has not expanded, as in quotes. A file that is named is taken whatever
    its name; below a folder, files that have the name of an image are taken, except hidden ones and
    the copies that file servers make.

    Args:
        given: Files, and folders if `recursive`.

    Raises:
        CommandError: A folder is given without `recursive`, or holds no image, or a pattern
            describes no file.
    """
    paths: list[Path] = []
    for path in _expanded(given):
        if not path.is_dir():
            paths.append(path)
            continue
        if not recursive:
            raise CommandError(
                f"{path} is a folder. Add --recursive to take the images in it.", exit_code=2
            )
        found = list(_below(path))
        if not found:
            raise CommandError(f"There is no image in {path}.")
        paths += found
    return paths


def read_file(path: Path) -> bytes:
    """The content of a file; that of the standard input for `-`.

    Raises:
        OSError: It cannot be read.
    """
    return sys.stdin.buffer.read() if path == STDIN else path.read_bytes()


def _expanded(given: Sequence[Path]) -> Iterator[Path]:
    for path in given:
        pattern = str(path)
        if not glob.has_magic(pattern) or os.path.lexists(path):
            yield path
            continue
        found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (keeps `./` and `..`)
        if not found:
            raise CommandError(f"There is no file {pattern}.")
        yield from map(Path, found)


def is_image(path: Path) -> bool:
    """Whether a file has the name of an image."""
    return path.suffix.lower() in _ENDINGS


def _below(folder: Path) -> Iterator[Path]:
    """The images of a folder and those below; links to folders are not followed."""

    def unreadable(error: OSError) -> None:
        warn(notes(), f"{error.filename} cannot be read ({error.strerror}).")

    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name not in _MAKERS_OF_COPIES
        )
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in _ENDINGS:
                yield Path(parent, name)
