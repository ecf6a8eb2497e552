"""Admission control: how many images may wait in each queue, and the refusal of further ones.

An unbounded queue answers every request too late; a bounded one answers as many as it can in time
and refuses the rest at once.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from contracts.errors import QueueFull
from contracts.inference.inference import Operation
from contracts.queue.redis_keys import QueueName
from contracts.settings import Settings

_MAX_RETRY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How many items each queue may hold: images are small and many, clips large and few."""

    default: int
    by_operation: Mapping[Operation, int] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings.queue_limit, {"clip": settings.clip_queue_limit})

    def limit(self, queue: QueueName) -> int:
        """How many items a queue may hold."""
        return self.by_operation.get(queue.operation, self.default)


class Admission:
    """Counts the images in progress in each queue of this process."""

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._in_progress: dict[QueueName, int] = {}

    def counts(self) -> dict[QueueName, int]:
        """The images in progress in each queue that has had some."""
        return dict(self._in_progress)

    def in_progress(self, queue: QueueName) -> int:
        return self._in_progress.get(queue, 0)

    def require_room(self, queue: QueueName, rate: float | None, seconds: float = math.inf) -> None:
        """Refuse as `permit` would refuse one image, before anything is read.

        Raises:
            QueueFull: As `permit`.
        """
        self._require(queue, 1, rate, seconds)

    @contextmanager
    def permit(
        self, queue: QueueName, count: int, rate: float | None, seconds: float = math.inf
    ) -> Iterator[None]:
        """Reserve room for `count` images.

        A request with more images than the limit is admitted if nothing else is in progress. A
        request whose time will be over before its turn comes is refused at once, at no cost to
        the others.

        Args:
            queue: Where they go.
            count: How many images.
            rate: Images per second that the queue processes, None if unknown.
            seconds: How long they may wait.

        Raises:
            QueueFull: There is no room, or not enough time.
        """
        self._require(queue, count, rate, seconds)
        self._in_progress[queue] = self.in_progress(queue) + count
        try:
            yield
        finally:
            self._in_progress[queue] -= count

    def _require(self, queue: QueueName, count: int, rate: float | None, seconds: float) -> None:
        in_progress = self.in_progress(queue)
        too_many = in_progress + count > self._limits.limit(queue)
        too_late = rate is not None and in_progress > rate * seconds
        if in_progress and (too_many or too_late):
            raise queue_full(in_progress, rate)


def queue_full(depth: int, rate: float | None) -> QueueFull:
    """The error for a full queue, with the seconds until its present content is processed."""
    seconds = depth / rate if rate else 1.0
    return QueueFull(
        f"{depth} images already wait for this model. Retry after the time in Retry-After.",
        retry_after=min(_MAX_RETRY_SECONDS, max(1.0, math.ceil(seconds))),
    )
