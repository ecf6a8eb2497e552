"""Admission control: how many images may wait in each queue, and the refusal of further ones.

An unbounded queue answers every request too late; a bounded one answers as many as it can in time
and refuses the rest at once.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from contracts.errors import QueueFull
from contracts.inference.inference import Operation
from contracts.queue.redis_keys import QueueName
from contracts.settings import Settings
from service.inference.fair_pool import whole_of
from service.queue.turns import ALTERNATING, FULL_SECONDS

_NEWCOMER_SHARE = 8  # one in so many places is what a client without any may take beyond the limit
_MOST_OF_LIMIT = 2  # so many times the limit are in progress at most
_MOST_OF_PARTS = 1.5  # likewise, with another part of a client that has some already
_MAX_RETRY_SECONDS = 60.0
_NO_CLIENTS: Counter[str] = Counter()


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
    """Counts the images in progress in each queue of this process, by client."""

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._in_progress: dict[QueueName, Counter[str]] = {}

    def alternates(self, queue: QueueName, rate: float | None) -> bool:
        """Whether clients take turns, as one that fills the queue would keep others for seconds.

        Args:
            rate: Images per second that the queue processes, None if unknown.
        """
        is_long = rate is not None and self._limits.limit(queue) > rate * FULL_SECONDS
        return queue.operation in ALTERNATING or is_long

    def counts(self) -> dict[QueueName, int]:
        """The images in progress in each queue that has had some."""
        return {queue: clients.total() for queue, clients in self._in_progress.items()}

    def require_room(
        self, queue: QueueName, rate: float | None, seconds: float = math.inf, client: str = ""
    ) -> None:
        """Refuse as `permit` would refuse one image, before anything is read.

        Raises:
            QueueFull: As `permit`.
        """
        self._require(queue, client, 1, rate, seconds)

    @contextmanager
    def permit(
        self,
        queue: QueueName,
        count: int,
        rate: float | None,
        seconds: float = math.inf,
        client: str = "",
    ) -> Iterator[bool]:
        """Reserve room for `count` images; yields whether the limit does not apply to them.

        A request with more images than the limit is admitted if nothing else is in progress. A
        request whose time will be over before its turn comes is refused at once, at no cost to
        the others. A client with nothing in progress is admitted with a few images although the
        others have filled the queue, up to twice the limit; perhaps through another API process,
        of which only Redis knows.

        Args:
            queue: Where they go.
            count: How many images.
            rate: Images per second that the queue processes, None if unknown.
            seconds: How long they may wait.
            client: Whose they are.

        Raises:
            QueueFull: There is no room, or not enough time.
        """
        may_exceed = self._require(queue, client, count, rate, seconds)
        in_progress = self._in_progress.setdefault(queue, Counter())
        in_progress[client] += count
        try:
            yield may_exceed
        finally:
            in_progress[client] -= count
            if not in_progress[client]:
                del in_progress[client]

    def _require(
        self, queue: QueueName, client: str, count: int, rate: float | None, seconds: float
    ) -> bool:
        by_client = self._in_progress.get(queue, _NO_CLIENTS)
        total, mine, limit = by_client.total(), by_client[client], self._limits.limit(queue)
        ahead: float = total
        # Each client waits for its own, as often as others do, and for what is in the queue by now.
        if rate is not None and self.alternates(queue, rate):
            names = by_client.keys() | {client}
            parts = sum(whole_of(name) == whole_of(client) for name in names)
            own = (mine + 1) * parts * len(set(map(whole_of, names)))
            ahead = min(total, max(own, rate * FULL_SECONDS))
        too_many = total + count > limit
        # A single request may exceed the limit; it closes the queue to nobody else.
        counted = sum(min(one, limit) for one in by_client.values())
        # Those who use one key leave room for those who use another.
        is_new = all(whole_of(name) != whole_of(client) for name in by_client)
        most = (_MOST_OF_LIMIT if is_new else _MOST_OF_PARTS) * limit
        is_few = count <= max(1, limit // _NEWCOMER_SHARE)
        may_exceed = not mine and is_few and counted + count <= most
        too_late = rate is not None and ahead > rate * seconds
        if total and ((too_many and not may_exceed) or too_late):
            raise queue_full(total, rate)
        return may_exceed


def queue_full(depth: int, rate: float | None) -> QueueFull:
    """The error for a full queue, with the seconds until its present content is processed."""
    seconds = depth / rate if rate else 1.0
    return QueueFull(
        f"{depth} images already wait for this model. Retry after the time in Retry-After.",
        retry_after=min(_MAX_RETRY_SECONDS, max(1.0, math.ceil(seconds))),
    )
