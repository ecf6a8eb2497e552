"""Files that survive a power cut: what was written before is on the disk, or nothing of it."""

import errno
import os
import secrets
from pathlib import Path

_KEPT_INODES = 10_000


def write_durably(path: Path, content: bytes, *, mode: int = 0o600, replaces: bool = True) -> bool:
    """Write a whole file, so that readers see the earlier content or this one, never a part.

    Args:
        path: In a folder that exists.
        content: All of it.
        mode: Of a new file, less the umask.
        replaces: Whether to replace a file that is there.

    Returns:
        Whether it was written: False only if there is one that is not to be replaced.

    Raises:
        OSError: It cannot be written.
    """
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replaces:
            part.replace(path)
        else:
            try:
                path.hardlink_to(part)
            except FileExistsError:
                return False
    finally:
        part.unlink(missing_ok=True)
    flush_entries(path.parent)
    return True


def flush_entries(path: Path) -> None:
    """Flush one file, or the entries of one folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def free_bytes(folder: Path, *, for_files: bool = True) -> int:
    """Bytes that a disk has left for others than the superuser.

    Args:
        folder: On the disk.
        for_files: Whether for new files. Then it is 0 if the disk has so few inodes left that
            there would soon be none: tiny files use them up long before the bytes.

    Raises:
        OSError: There is no such folder.
    """
    state = os.statvfs(folder)
    # Some file systems, such as btrfs, make inodes as they are needed, and say 0.
    if for_files and state.f_favail < min(_KEPT_INODES, state.f_files // 10):
        return 0
    return state.f_bavail * state.f_frsize


def require_room(folder: Path, size: int, kept: int) -> None:
    """Check that a disk has room for a file, and some left for other work.

    Args:
        folder: On the disk; it need not exist yet.
        size: Bytes of the file.
        kept: Bytes that have to stay free.

    Raises:
        OSError: It has not, as if the disk were full.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if free_bytes(folder) < size + kept:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def has_room(folder: Path, size: int, kept: int) -> bool:
    """As `require_room`."""
    try:
        require_room(folder, size, kept)
    except OSError:
        return False
    return True
