"""The permit: how many images this process may have under way, and what it tells those it refuses.

A queue without a bound answers everybody too late; a bounded one answers as many as it can in
time, and the rest at once.

How many items each lane may hold: pictures are small and many, clips large and few.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from contracts.errors import QueueFull
from contracts.inference.inference import LaneOperation
from contracts.settings import Settings


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """The bounds.

    Attributes:
        usual: Of most lanes.
        special: Of some operations.
    """

    usual: int
    special: Mapping[LaneOperation, int] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """As this installation is configured."""
        return cls(settings.queue_limit, {"clip": settings.clip_queue_limit})

    def most(self, lane: str) -> int:
        """What a lane may hold.

        Args:
            lane: As `contracts.queue.redis_keys.lane` calls it.
        """
        operation = lane.rpartition(":")[2]
        return next((most for of, most in self.special.items() if of == operation), self.usual)


_LONGEST_RETRY_SECONDS = 60.0


class Admission:
    """Counts the images under way in each lane of this process.

    Args:
        limits: How many images may be under way in each lane.
    """

    def __init__(self, limits: LaneLimits) -> None:
        self._limits = limits
        self._under_way: dict[str, int] = {}

    def under_way(self, lane: str) -> int:
        return self._under_way.get(lane, 0)

    def require_room(self, lane: str, rate: float | None, seconds: float = math.inf) -> None:
        """Refuse as `permit` would one image, before anything is read.

        Raises:
            QueueFull: As `permit`.
        """
        self._require(lane, 1, rate, seconds)

    @contextmanager
    def permit(
        self, lane: str, count: int, rate: float | None, seconds: float = math.inf
    ) -> Iterator[None]:
        """Hold room for `count` images.

        A request of more images than the limit is let in when nothing else is under way. One whose
        time will be over before its turn comes is refused at once, and costs the others nothing.

        Args:
            lane: Where they go.
            count: How many.
            rate: Images a second the lane drains, None if unknown.
            seconds: How long they may wait.

        Raises:
            QueueFull: There is no room, or no time.
        """
        self._require(lane, count, rate, seconds)
        self._under_way[lane] = self.under_way(lane) + count
        try:
            yield
        finally:
            self._under_way[lane] -= count

    def _require(self, lane: str, count: int, rate: float | None, seconds: float) -> None:
        under_way = self.under_way(lane)
        too_many = under_way + count > self._limits.most(lane)
        too_late = rate is not None and under_way > rate * seconds
        if under_way and (too_many or too_late):
            raise queue_full(under_way, rate)


def queue_full(waiting: int, rate: float | None) -> QueueFull:
    """The refusal, with the seconds after which the present queue will have drained."""
    seconds = waiting / rate if rate else 1.0
    return QueueFull(
        f"{waiting} images already wait for this model. Retry after the time in Retry-After.",
        retry_after=min(_LONGEST_RETRY_SECONDS, max(1.0, math.ceil(seconds))),
    )
