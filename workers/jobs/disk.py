"""A disk that cannot be written to: wait a little, since somebody may be clearing it already.

A full disk usually stays full, and a job that is started ten more times only hides the reason. So
the job waits here once, for seconds; if nothing changes, it fails with the reason.
"""

import os
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from contracts.settings import MIB

_POLL_SECONDS = 0.5
_FREED_BYTES = 64 * MIB  # this much more room is a reason to try again


def becomes_usable(folders: Sequence[Path], seconds: float, may_wait: Callable[[], object]) -> bool:
    """Wait until the disk can be written to again, or has clearly more room than now.

    Args:
        folders: Those that jobs write to.
        seconds: The longest wait.
        may_wait: Called often; may raise.
    """
    present = [folder for folder in folders if folder.is_dir()]
    before = [(_can_write(folder), _free(folder)) for folder in present]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        may_wait()
        time.sleep(_POLL_SECONDS)
        has_changed = any(
            _free(folder) >= free + _FREED_BYTES or (not could_write and _can_write(folder))
            for folder, (could_write, free) in zip(present, before, strict=True)
        )
        if has_changed and all(map(_can_write, present)):
            return True
    return False


def _can_write(folder: Path) -> bool:
    probe = folder / f".{secrets.token_hex(8)}.probe"
    try:
        with probe.open("xb") as file:
            file.write(bytes(MIB))
            os.fsync(file.fileno())
    except OSError:
        return False
    else:
        return True
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _free(folder: Path) -> int:
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize
