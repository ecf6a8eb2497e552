"""Reads a folder of images on this machine without following links out of it."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from contracts.errors import InvalidArchive
from contracts.names import composed
from models.datasets.archives.limits import Limits
from models.datasets.archives.members import (
    Member,
    is_hidden,
    printable,
    read_nothing,
    too_large,
    too_many,
)
from models.datasets.archives.name_encoding import NameReader


def read_folder(root: Path, limits: Limits, names: NameReader) -> Iterator[Member]:
    """The files of a folder, in the order of their names. Links are reported, not followed.

    Raises:
        InvalidArchive: It is not a folder, cannot be read, or exceeds a limit.
    """
    if root.is_symlink() or not root.is_dir():
        raise InvalidArchive(
            "There is no such folder. Name one that contains one folder for each class."
        )
    count = total = 0

    def text(raw: bytes) -> str:
        return names.read_one(raw, lambda: _all_names(root))

    for member in _walk(root, "", limits, text):
        count += 1
        total += member.size
        if count > limits.files:
            raise too_many(limits)
        if total > limits.total_bytes:
            raise too_large(limits)
        yield member
    if count == 0:
        raise InvalidArchive(
            "The folder is empty. Put one folder of images for each class into it."
        )


def _all_names(root: Path) -> Iterator[bytes]:
    for _, folders, files in os.walk(os.fsencode(root)):
        yield from folders
        yield from files


def _walk(
    folder: Path, prefix: str, limits: Limits, text: Callable[[bytes], str]
) -> Iterator[Member]:
    if prefix.count("/") > limits.depth:
        raise InvalidArchive(f"Its folders are nested more than {limits.depth} deep.")
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        if not prefix:
            raise InvalidArchive("The folder cannot be read. Check its permissions.") from error
        yield _faulty(prefix.rstrip("/"), "unreadable", "The folder cannot be read.")
        return
    for entry in entries:
        path = prefix + composed(text(os.fsencode(entry.name)))
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_folder and not is_hidden(entry.name):
            yield from _walk(Path(entry.path), f"{path}/", limits, text)
        else:
            yield _entry(entry, path, limits)


def _entry(entry: "os.DirEntry[str]", path: str, limits: Limits) -> Member:
    if entry.is_symlink():
        return _faulty(path, "link", "It is a link; links are not followed. Put a copy here.")
    if entry.is_dir(follow_symlinks=False):
        return _faulty(path, "hidden", "It is a hidden folder or a system folder.")
    if entry.is_file(follow_symlinks=False):
        return _file(Path(entry.path), path, limits)
    return _faulty(path, "special_file", "It is a pipe, a socket or a device.")


def _file(file: Path, path: str, limits: Limits) -> Member:
    try:
        size = file.lstat().st_size
    except OSError:
        return _faulty(path, "unreadable", "It was removed in the meantime.")
    if size > limits.image_bytes:
        detail = f"It has {size:,} bytes; an image may have {limits.image_bytes:,}."
        return Member(path, 0, read_nothing, ("file_too_large", detail))
    return Member(path, size, lambda limit: _content(file, limit))


def _content(file: Path, limit: int) -> bytes:
    """Read the file, unless it has been replaced by a link or a pipe in the meantime."""
    handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as content:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{printable(file.name)} is not a regular file")
        return content.read(limit)


def _faulty(path: str, code: str, detail: str) -> Member:
    return Member(path, 0, read_nothing, (code, detail))
