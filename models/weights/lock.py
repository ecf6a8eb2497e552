"""One process at a time fetches a file; the others wait and then find it there."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.weights.files import FetchError

_POLL_SECONDS = 0.1


@contextmanager
def exclusive(path: Path, *, timeout: float) -> Iterator[None]:
    """Hold the lock file at `path`; the kernel lets go of it when the process dies.

    The file stays: to remove it would let two processes hold two locks of one name.

    Args:
        path: The lock file; made if it is not there.
        timeout: Seconds to wait for whoever holds it.

    Raises:
        FetchError: It was held the whole time.
    """
    deadline = time.monotonic() + timeout
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise FetchError("another process has been fetching it for too long") from None
                time.sleep(_POLL_SECONDS)
            else:
                yield
                return
