"""Reads whose responses may have megabytes: jobs with their results, datasets, people.

Such a read costs as much as hundreds of others, and asking for it costs a client nothing. A few
threads of their own take them in turn, fairly by client, and only for clients that still listen.
How many bytes of responses a process has made and not sent yet is bounded, of all and of each.
"""

import threading
from collections import Counter

from contracts.errors import QueueFull
from service.inference.fair_pool import FairPool

_THREADS = 2
_PLACES = 2048
_PLACES_PER_CLIENT = 512
_MIB = 2**20
_MAX_BYTES = 128 * _MIB
_MAX_BYTES_PER_CLIENT = 32 * _MIB


class LargeReads:
    """The reads of one API process.

    Args:
        most: Bytes of responses that are made or being sent.
        share: Of those, the bytes of one client. A single response may always have more.

    Attributes:
        pool: Runs reads that take milliseconds.
        long_pool: Runs those that may take seconds, and so do not keep the others waiting.
    """

    def __init__(self, most: int = _MAX_BYTES, share: int = _MAX_BYTES_PER_CLIENT) -> None:
        self._most = most
        self._share = share
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.pool = _pool(_THREADS)
        self.long_pool = _pool(1)

    def close(self) -> None:
        """Accept no more reads and drop those that wait; does not wait for running ones."""
        self.pool.close()
        self.long_pool.close()

    def hold(self, client: str, size: int) -> None:
        """Count bytes of a client.

        Raises:
            QueueFull: They are too many, of this client or of all.
        """
        with self._lock:
            mine, total = self._held[client], self._held.total()
            if (mine and mine + size > self._share) or (total and total + size > self._most):
                raise QueueFull(
                    "Too many large responses are being sent. Read those that you asked for, then "
                    "retry.",
                    retry_after=1,
                )
            self._held[client] += size

    def release(self, client: str, size: int) -> None:
        """The opposite of `hold`."""
        with self._lock:
            self._held[client] -= size
            if not self._held[client]:
                del self._held[client]


def _pool(threads: int) -> FairPool:
    return FairPool(
        threads,
        name="read",
        places=_PLACES,
        share=_PLACES_PER_CLIENT,
        full="Too many reads wait for their turn. Retry soon.",
        late="It was not read in time. Ask for fewer items with `limit`.",
    )
