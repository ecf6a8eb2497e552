"""Refuses jobs that the disk has no room for, before they wait in a queue to find that out."""

import errno
import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path

from contracts.errors import DiskUnusable
from contracts.jobs import PICTURE_KINDS, JobKind
from contracts.settings import MIB, Settings
from database.installation import require_mounted

_SMALL = 16 * MIB  # what any job may write: progress, charts, images
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


def require_job_room(settings: Settings, kind: JobKind, size: int) -> None:
    """Check that the disk has room for a job's inputs.

    Any client with the scope `infer` may ask for images of hundreds of megabytes, which are kept
    for a day, or send such images in a few kilobytes. Their jobs leave room, without which nothing
    else could be written either.

    Args:
        size: Bytes of the inputs.

    Raises:
        DiskUnusable: The disk is full, or nearly so, or not mounted.
    """
    require_mounted(settings.home)
    kept = settings.min_free_disk_bytes if kind in _INFER_KINDS else 0
    _require_free(settings, size + max(kept, _SMALL))


def _require_free(settings: Settings, needed: int) -> None:
    free = _free(settings.home)
    if free < needed:
        raise DiskUnusable(
            f"The service's disk has {free // MIB} MB left, and this job needs about "
            f"{needed // MIB}. Delete what is not needed, or ask the service's "
            "operator for more space, then send it again.",
            retry_after=60,
        )


def _free(folder: Path) -> int:
    with suppress(OSError):
        state = os.statvfs(folder)
        return state.f_bavail * state.f_frsize
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
