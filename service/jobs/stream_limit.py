"""Bounds how many clients follow jobs at a time.

A stream costs a look into the database twice a second for as long as ten minutes, and a request
costs a client nothing: nine hundred streams of one key kept everybody else waiting for seconds.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from contracts.errors import QueueFull

MOST = 128
"""Streams of one API process."""
MOST_OF_ONE = 32
"""Of those, streams of one key, or of one address where keys are not asked for."""

_RETRY_SECONDS = 5.0


class Streams:
    """The streams of one API process; belongs to its event loop.

    Args:
        most: Of all together.
        most_of_one: Of one caller.
    """

    def __init__(self, most: int = MOST, most_of_one: int = MOST_OF_ONE) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._open: Counter[str] = Counter()

    @contextmanager
    def taken(self, payer: str) -> Iterator[None]:
        """A place, for as long as this is entered.

        Raises:
            QueueFull: There is none, or this caller has enough.
        """
        if self._open[payer] >= self._most_of_one:
            raise QueueFull(
                f"You follow {self._most_of_one} jobs already. Close a stream, or ask for the job "
                "itself now and then.",
                retry_after=_RETRY_SECONDS,
            )
        if self._open.total() >= self._most:
            raise QueueFull(
                "Too many jobs are being followed. Ask for the job itself now and then.",
                retry_after=_RETRY_SECONDS,
            )
        self._open[payer] += 1
        try:
            yield
        finally:
            self._open[payer] -= 1
            if not self._open[payer]:
                del self._open[payer]
