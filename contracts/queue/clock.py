"""The one clock that all processes of a queue share: that of Redis.

Clocks of two hosts differ, so a deadline by the clock of one must not be compared with the clock of
another. Each process measures how far Redis is ahead of its own monotonic clock, which also makes
it indifferent to its own clock being set.
"""

import time
from collections.abc import Callable

MAX_AHEAD_SECONDS = 2.0
"""By how much the clock of a host may differ from that of Redis without a warning."""

_SLOWEST_SECONDS = 1.0  # a measurement that took longer says too little, unless it is the first


class RedisClock:
    """Unix time in seconds by the clock of Redis; by this host's until it was first measured.

    Args:
        monotonic: Seconds that only ever grow.
        wall: Unix time in seconds by this host.

    Attributes:
        host_ahead: By how many seconds this host's clock is ahead of Redis'; None if not measured.
        jumped: By how many seconds the clock of Redis has been set forward between measurements, in
            all. Whatever expires has then expired sooner, such as queues.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._offset: float | None = None
        self.host_ahead: float | None = None
        self.jumped = 0.0

    def __call__(self) -> float:
        if self._offset is None:
            return self._wall()
        return self._monotonic() + self._offset

    def start(self) -> float:
        """The moment before Redis is asked; for `observe`."""
        return self._monotonic()

    def observe(self, started: float, answer: tuple[int, int]) -> None:
        """Take a measurement.

        Args:
            started: From `start`.
            answer: What `TIME` returned: seconds and microseconds.
        """
        now = self._monotonic()
        if self._offset is not None and now - started > _SLOWEST_SECONDS:
            return
        redis_now = answer[0] + answer[1] / 1_000_000 + (now - started) / 2
        offset = redis_now - now
        if self._offset is not None and offset - self._offset > MAX_AHEAD_SECONDS:
            self.jumped += offset - self._offset
        self._offset = offset
        self.host_ahead = self._wall() - redis_now
