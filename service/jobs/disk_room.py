"""Refuses jobs that the disk has no room for, before they wait in a queue to find that out."""

import errno
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from contracts.errors import DiskUnusable
from contracts.files import free_bytes
from contracts.jobs import PICTURE_KINDS, JobKind
from contracts.settings import MIB, Settings
from database.installation import require_mounted

_SMALL = 16 * MIB  # what any job may write: progress, charts, images
Use = Literal["rows", "lines"]
_INFER_KINDS = PICTURE_KINDS | {"classify", "embed"}


def require_disk(settings: Settings, needed: int = 0) -> None:
    """Check that a job can write what it makes. Touches the disk: call it in a thread.

    Args:
        needed: Bytes of the version that the job publishes and of its checkpoints; 0 if it
            publishes none.

    Raises:
        DiskUnusable: The disk is full, or the model store cannot be written to.
    """
    kept = settings.min_free_disk_bytes if needed else 0
    _require_free(settings, needed + max(kept, _SMALL))
    if needed:
        _require_writable(settings.store_home)


def require_free(settings: Settings, use: Use, free: int) -> None:
    """Check that there is room to add to the database, after which jobs can still end.

    Args:
        use: Rows of any size, or lines of the audit logs, such as those of logins, which the rows
            of other clients do not keep out.
        free: From `free_for_rows`.

    Raises:
        DiskUnusable: The disk is nearly full.
    """
    rows, lines = settings.free_disk_bytes_of_rows, settings.free_disk_bytes_of_lines
    _require(free, rows if use == "rows" else lines, "this request")


def require_row_room(settings: Settings) -> None:
    """`require_free` for a row of any size. Touches the disk: call it in a thread."""
    require_free(settings, "rows", free_for_rows(settings))


class JobRoom:
    """The disk's room for the inputs of jobs, some of which are being written.

    Inputs wait for a day, and their jobs can only end while something else can be written too.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._taken = 0

    @contextmanager
    def taken(self, kind: JobKind, size: int) -> Iterator[None]:
        """Check that there is room for a job's inputs, and keep it for them until the block ends.

        Any client with the scope `infer` may ask for images of hundreds of megabytes, or send such
        images in a few kilobytes, so their jobs leave more room than those of other scopes.

        Args:
            size: Bytes of the inputs.

        Raises:
            DiskUnusable: The disk is full, or nearly so, or not mounted.
        """
        settings = self._settings
        require_mounted(settings.home)
        is_work = kind not in _INFER_KINDS
        kept = settings.free_disk_bytes_of_work if is_work else settings.min_free_disk_bytes
        with self._lock:
            _require_free(settings, self._taken + size + max(kept, _SMALL))
            self._taken += size
        try:
            yield
        finally:
            with self._lock:
                self._taken -= size


def _require_free(settings: Settings, needed: int) -> None:
    _require(free_of(settings.home), needed, "this job")


def _require(free: int, needed: int, what: str) -> None:
    if free < needed:
        left = f"{free // MIB} MB" if free else "no room for more files"
        raise DiskUnusable(
            f"The service's disk has {left} left, and {what} needs about "
            f"{needed // MIB}. Delete what is not needed, or ask the service's "
            "operator for more space, then send it again.",
            retry_after=60,
        )


def free_for_rows(settings: Settings) -> int:
    """Bytes left on the disk of the SQLite file. That of a PostgreSQL server is the server's."""
    kind, _, file = settings.database.partition(":///")
    return free_of(Path(file).parent, for_files=False) if kind == "sqlite" else sys.maxsize


def free_of(folder: Path, *, for_files: bool = True) -> int:
    """As `contracts.files.free_bytes`, also if there is no such folder."""
    with suppress(OSError):
        return free_bytes(folder, for_files=for_files)
    return sys.maxsize  # not created yet, or not on this machine: the job will see


def _require_writable(store: Path) -> None:
    probe = store / f".{secrets.token_hex(8)}.probe"
    try:
        store.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as error:
        read_only = error.errno == errno.EROFS
        raise DiskUnusable(
            "The model store cannot be written to: "
            f"{'it is read-only' if read_only else 'the service may not write there'}. "
            "Ask the service's operator to mend that, then send it again.",
            retry_after=60,
        ) from error
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
