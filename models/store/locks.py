"""A lock between processes that the kernel takes back when its holder dies.

A lock file says nothing by existing, so a killed process leaves no stale lock behind.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from contracts.errors import Unavailable

PAUSE_SECONDS = 0.01


@contextmanager
def locked(path: Path, *, timeout: float = 30.0) -> Iterator[None]:
    """Hold the lock `path` while the block runs, alone among threads and processes.

    Raises:
        Unavailable: Another held it for `timeout` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout
    with path.open("w") as file:
        while not try_lock(file):
            if time.monotonic() > deadline:
                raise Unavailable(
                    "The model store is busy with another change; try again.", retry_after=5
                )
            time.sleep(PAUSE_SECONDS)
        yield


def try_lock(file: IO[str]) -> bool:
    """Take the lock of an open file if it is free; it is held until the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
