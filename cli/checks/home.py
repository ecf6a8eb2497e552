"""The data home: permissions, free space, and unfinished restores."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cli.backup.contents import AREAS, SECRETS
from cli.backup.placing import is_incomplete, is_interrupted, is_left_over
from cli.checks.check import Check
from contracts.settings import Settings
from models.store.staging import backup_copies

_LOW_DISK_BYTES = 2 * 1024**3
_LOW_INODES = 10_000


def home(settings: Settings) -> Iterator[Check]:
    """Check the folders."""
    folder = settings.home
    yield _home(folder)
    yield _disk(folder, settings.min_free_disk_bytes)
    if folder.is_dir():
        yield from _areas(folder)
        yield from _secrets(folder / SECRETS)
        if is_interrupted(folder) or is_incomplete(folder):
            detail = "a restore was interrupted, so the home is a mixture of two states"
            help_ = "`opsin up` finishes it, and so does `opsin restore` with the same backup."
            yield Check("restore", "fail", detail, help_)
        elif is_left_over(folder):
            detail = f"one is unpacking in {folder / '.restore'}, or was killed while it did"
            help_ = "If none is running: `opsin up` and `opsin restore` remove what it left."
            yield Check("restore", "warn", detail, help_)
        yield from _copies(settings)


def _home(folder: Path) -> Check:
    nearest = _nearest(folder)
    if not nearest.is_dir() or not _writable(nearest):
        help_ = f"Set OPSIN_HOME to a folder of yours, or `sudo chown -R $(id -u) {nearest}`."
        return Check("data home", "fail", f"{folder} cannot be written to", help_)
    if nearest != folder:
        return Check("data home", "ok", f"{folder} (not created yet)")
    mode = folder.stat().st_mode & 0o777
    if mode & 0o077:
        help_ = f"`chmod 700 {folder}` (`opsin up` does it)."
        return Check("data home", "warn", f"{folder} is open to others (mode {mode:o})", help_)
    return Check("data home", "ok", str(folder))


def _disk(folder: Path, reserve: int) -> Check:
    nearest = _nearest(folder)
    free, inodes = shutil.disk_usage(nearest).free, os.statvfs(nearest)
    text = f"{free / 1024**3:.1f} GiB free"
    help_ = (
        "`opsin jobs list`, `opsin datasets list` and `opsin models list` show what may go; "
        f"{folder / 'cache'} may be emptied at any time."
    )
    if free < reserve:
        detail = f"{text}, less than OPSIN_MIN_FREE_DISK_BYTES: uploads are refused"
        return Check("disk", "fail", detail, help_)
    if inodes.f_files and inodes.f_favail < _LOW_INODES:
        return Check("disk", "warn", f"{text}, but {inodes.f_favail:,} files at most", help_)
    if free < _LOW_DISK_BYTES:
        return Check("disk", "warn", text, help_)
    return Check("disk", "ok", text)


def _areas(folder: Path) -> Iterator[Check]:
    """Check for folders of another user, such as a container's root on a shared volume."""
    unwritable = [
        name
        for name in (*AREAS, "cache", "weights", "valkey", "logs", "memory", "run", "opsin.db")
        if (folder / name).exists() and not _writable(folder / name)
    ]
    if unwritable:
        help_ = f"`sudo chown -R $(id -u) {folder}`: all parts of Opsin run as one user."
        detail = f"{', '.join(unwritable)} in {folder} cannot be written to"
        yield Check("permissions", "fail", detail, help_)


def _secrets(folder: Path) -> Iterator[Check]:
    if not folder.is_dir():
        return
    open_ = [
        path.name
        for path in (folder, *sorted(folder.iterdir()))
        if stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    if open_:
        detail = f"others can read {', '.join(open_)} in {folder}"
        yield Check("secrets", "fail", detail, f"`chmod -R go= {folder}`, and consider new keys.")
    else:
        yield Check("secrets", "ok", "readable by their owner only")


def _copies(settings: Settings) -> Iterator[Check]:
    """Whether a backup has left a copy of the people, for which every erasure waits."""
    with suppress(OSError):  # such as of a folder of another user, which `_areas` names
        if left := backup_copies(settings.jobs_home).left():
            detail = f"none ends: a killed backup has left {', '.join(map(str, left))}"
            help_ = "`opsin up` removes it; if it stays, delete it as the owner of its files."
            yield Check("erasures", "fail", detail, help_)


def _nearest(folder: Path) -> Path:
    """The folder, or the existing parent in which it would be created."""
    return (
        folder if folder.exists() else next(parent for parent in folder.parents if parent.exists())
    )


def _writable(path: Path) -> bool:
    mode = os.W_OK | os.X_OK if path.is_dir() else os.W_OK
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)
