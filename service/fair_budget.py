"""Bounds the memory of what clients hold at the same time, such as bodies or decoded images."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from contracts.errors import QueueFull
from service.inference.fair_pool import whole_of


class FairBudget:
    """Bytes that all clients may hold together.

    No client, with all its parts, may hold more than half, so that there is room for another. A
    request on its own is always accepted.

    Args:
        budget: Bytes of all together.
        full: What a client is told for which there is no room.
    """

    def __init__(self, budget: int, full: str) -> None:
        self._budget = budget
        self._full = full
        self._taken: Counter[str] = Counter()  # bytes, by client

    def require(self, client: str, more: int, mine: int = 0) -> None:
        """Check that `more` bytes fit for a request that holds `mine` already.

        Raises:
            QueueFull: They do not.
        """
        taken, theirs = self._taken.total(), self._taken[whole_of(client)]
        is_only = taken == mine
        if not (is_only or (taken + more <= self._budget and theirs + more <= self._budget // 2)):
            raise QueueFull(self._full, retry_after=1)

    def take(self, client: str, more: int, mine: int = 0) -> None:
        """Hold more bytes.

        Raises:
            QueueFull: They do not fit.
        """
        self.require(client, more, mine)
        self._taken[whole_of(client)] += more

    def give_back(self, client: str, size: int) -> None:
        """Hold so many bytes less."""
        client = whole_of(client)
        self._taken[client] -= size
        if not self._taken[client]:
            del self._taken[client]

    @contextmanager
    def held(self, client: str, size: int) -> Iterator[None]:
        """Hold bytes until the block ends.

        Raises:
            QueueFull: They do not fit.
        """
        self.take(client, size)
        try:
            yield
        finally:
            self.give_back(client, size)
