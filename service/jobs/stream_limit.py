"""Bounds how many clients follow jobs at the same time.

A stream reads the database twice a second for up to ten minutes, while opening one costs a client
nothing: nine hundred streams of one key delayed everyone else by seconds.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from contracts.errors import QueueFull

MAX_STREAMS = 128
"""Streams of one API process."""
MAX_STREAMS_PER_CLIENT = 32
"""Of those, streams of one key or, on an open service, of one address."""

_RETRY_SECONDS = 5.0


class StreamLimiter:
    """Counts the open streams of one API process; belongs to its event loop.

    Args:
        max_streams: Of all clients together.
        max_per_client: Of one client.
    """

    def __init__(
        self, max_streams: int = MAX_STREAMS, max_per_client: int = MAX_STREAMS_PER_CLIENT
    ) -> None:
        self._max_streams = max_streams
        self._max_per_client = max_per_client
        self._open: Counter[str] = Counter()  # by quota key

    @contextmanager
    def acquire(self, quota_key: str) -> Iterator[None]:
        """Hold a stream until the block ends.

        Raises:
            QueueFull: There are too many, or this client has too many.
        """
        if self._open[quota_key] >= self._max_per_client:
            raise QueueFull(
                f"You follow {self._max_per_client} jobs already. Close a stream, or poll the job "
                "itself.",
                retry_after=_RETRY_SECONDS,
            )
        if self._open.total() >= self._max_streams:
            raise QueueFull(
                "Too many jobs are being followed. Poll the job itself.",
                retry_after=_RETRY_SECONDS,
            )
        self._open[quota_key] += 1
        try:
            yield
        finally:
            self._open[quota_key] -= 1
            if not self._open[quota_key]:
                del self._open[quota_key]
