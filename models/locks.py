"""File locks between processes, which the kernel releases when their holder dies.

That the file exists means nothing, so a killed process leaves no stale lock behind. The file stays:
if it were removed, two processes could hold two locks of one name.
(`database.jobs.files` has its own: `database` may import only `contracts`.)
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from contracts.errors import Unavailable

LOCK_SECONDS = 30.0
"""How long a change waits for another one of the same thing."""

_POLL_SECONDS = 0.01


class LockHeldError(Unavailable):
    """Another holder kept the lock for the whole time that the caller would wait."""


@contextmanager
def locked(
    path: Path, *, timeout: float = LOCK_SECONDS, error: Exception | None = None
) -> Iterator[None]:
    """Hold the lock file `path` while the block runs, alone among threads and processes.

    Args:
        path: The lock file; it is created with its folder if it does not exist.
        timeout: Seconds to wait for another holder.
        error: What to raise then; `LockHeldError` if not given.

    With a timeout of 0 it is tried once, so that a caller can wait without a thread; see
    `service.lock_waiting`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout
    with path.open("a") as file:
        while not try_lock(file):
            if time.monotonic() >= deadline:
                raise error or LockHeldError(
                    "It is busy with another change; try again.", retry_after=5
                )
            time.sleep(_POLL_SECONDS)
        yield


def try_lock(file: IO[str] | int, *, shared: bool = False) -> bool:
    """Take the lock of an open file if it is free; it is held until the file is closed.

    Args:
        file: The file, or its descriptor.
        shared: Whether others may hold the lock too, if they also share it.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
