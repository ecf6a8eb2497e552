"""The worker's access to the queues in Redis: take images, send replies, notice cancellations.

Taking images is one Lua script: it drops those whose client has gone and claims the rest, so that
the API can queue them again if this worker dies before it replies.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event
from typing import cast, get_args

import redis

from contracts.errors import DeadlineExceeded, Draining
from contracts.inference.inference import Operation
from contracts.queue import redis_keys, scripts
from contracts.queue.messages import Item, MalformedMessageError, Reply, Vector
from contracts.queue.redis_keys import QueueName

# The reply list of an API process that is gone must not stay forever.
_REPLIES_EXPIRE_SECONDS = 120
_RATE_EXPIRE_SECONDS = 60
_RATE_INTERVAL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class ItemOutput:
    """The output of one image in a batch.

    Attributes:
        vector: The numbers, float32, as one row.
        note: JSON with what they mean, where the operation alone does not say it; see
            `contracts.queue.explain_messages`.
    """

    vector: Vector
    note: bytes = b""


class WorkerQueues:
    """All queues, as one worker uses them.

    Args:
        client: A connection whose answers are bytes.
        worker_id: The owner of the claims.
    """

    def __init__(self, client: "redis.Redis", worker_id: str) -> None:
        self._client = client
        self._claims = redis_keys.claims(worker_id)
        self._take = client.register_script(scripts.TAKE)
        self._rate_written: dict[QueueName, float] = {}

    def clear_scheduled(self, queue: QueueName) -> None:
        """From now on, a push schedules the next task, on this worker or another."""
        self._client.delete(queue.scheduled_key)

    def set_scheduled(self, queue: QueueName) -> bool:
        """Whether the caller has to send the next task; False if one is already scheduled."""
        expires = redis_keys.SCHEDULED_EXPIRE_MS
        return bool(self._client.set(queue.scheduled_key, 1, nx=True, px=expires))

    def scheduled(self, queues: Sequence[QueueName]) -> list[QueueName]:
        """Those of the queues whose task is on its way to a worker."""
        if not queues:
            return []
        keys = [queue.scheduled_key for queue in queues]
        values = cast(list[bytes | None], self._client.mget(keys))
        return [queue for queue, value in zip(queues, values, strict=True) if value]

    def take(self, queue: QueueName, limit: int) -> list[Item]:
        """At most `limit` images, oldest first; those of clients that have gone are dropped."""
        return self.take_unless(queue, limit, ()) or []

    def take_unless(
        self, queue: QueueName, limit: int, others: Sequence[QueueName]
    ) -> list[Item] | None:
        """As `take`, but reports when the queue is empty and another one is scheduled.

        Returns:
            At most `limit` images; None if there are none and a task of one of `others` waits
            for a worker.
        """
        keys = [queue.key, self._claims, queue.notify_key]
        keys += [other.scheduled_key for other in others]
        messages = cast(list[bytes] | int, self._take(keys=keys, args=[limit]))
        if isinstance(messages, int):
            return None
        items = []
        for raw in messages:
            try:
                items.append(Item.unpack(raw))
            except MalformedMessageError:
                # Made by another release. Its sender answers when the deadline has passed.
                continue
        return items

    def wait_for_push(self, queues: Sequence[QueueName], seconds: float) -> QueueName | None:
        """Wait until images are pushed to one of the queues.

        Args:
            queues: Which to wait for.
            seconds: How long; at least a millisecond, since for Redis 0 means forever.

        Returns:
            The queue that was pushed to; None if none was in time.
        """
        by_key = {queue.notify_key: queue for queue in queues}
        popped = cast(
            tuple[bytes, bytes] | None,
            self._client.blpop(list(by_key), timeout=max(seconds, 0.001)),
        )
        return by_key[popped[0].decode()] if popped else None

    def count_waiting(self, model: str, version: int) -> int:
        """Images in all queues of a version; 1 if Redis does not answer, as if one waited."""
        try:
            queues = [QueueName(model, version, operation) for operation in get_args(Operation)]
            return sum(int(self._client.llen(queue.key)) for queue in queues)
        except redis.RedisError:
            return 1

    def send_replies(
        self, queue: QueueName, replies: Sequence[tuple[Item, Reply]], rate: float
    ) -> None:
        """Send the replies of one batch and record the queue's rate.

        Args:
            queue: Where the items came from.
            replies: Each item with its reply.
            rate: Images per second, for `Retry-After`.
        """
        by_list: dict[str, list[bytes]] = defaultdict(list)
        for item, reply in replies:
            by_list[item.reply_to].append(reply.pack())
        pipe = self._client.pipeline(transaction=False)
        for key, messages in by_list.items():
            pipe.rpush(key, *messages)
            pipe.expire(key, _REPLIES_EXPIRE_SECONDS)
        self._release(pipe, [item for item, _ in replies])
        now = time.monotonic()
        if now >= self._rate_written.get(queue, 0.0) + _RATE_INTERVAL_SECONDS:
            self._rate_written[queue] = now
            pipe.set(queue.rate_key, f"{rate:.3f}", ex=_RATE_EXPIRE_SECONDS)
        pipe.execute()

    def is_abandoned(self, item: Item) -> bool:
        """Whether the client of an image has gone since the image was taken."""
        return bool(self._client.exists(redis_keys.abandoned(item.id)))

    def drop(self, items: Sequence[Item]) -> None:
        """Release the claims of images that no client waits for any more."""
        if items:
            self._release(self._client, items)

    def _release(self, client: "redis.Redis", items: Sequence[Item]) -> None:
        client.srem(self._claims, *(item.id for item in items))


class Cancellation:
    """Ends slow operations early: when the worker stops, or no client waits any more.

    Args:
        queues: Where abandoned images are marked.
        stopping: Set when the worker has been told to stop.
        clock: Unix time in seconds.
    """

    def __init__(
        self, queues: WorkerQueues, stopping: Event, clock: Callable[[], float] = time.time
    ) -> None:
        self._queues = queues
        self._stopping = stopping
        self._clock = clock

    def check(
        self, items: Sequence[Item], *, late: str, retry: str = "Send the image again."
    ) -> None:
        """Raise if the worker stops, or if no client waits for the reply to any of the items.

        Args:
            items: What is being worked on.
            late: What to tell a client whose deadline has passed.
            retry: What to tell a client whose worker stops.

        Raises:
            Draining: The worker stops.
            DeadlineExceeded: The deadline of each item has passed, or its client has gone.
        """
        if self._stopping.is_set():
            raise Draining(f"The worker is shutting down. {retry}")
        now = self._clock()
        if all(item.deadline <= now or self._queues.is_abandoned(item) for item in items):
            raise DeadlineExceeded(late)
