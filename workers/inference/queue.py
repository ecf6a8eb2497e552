"""The worker's access to the queues in Redis: take images, send replies, notice cancellations.

Taking images is one Lua script: it drops those whose client has gone and claims the rest, so that
the API can queue them again if this worker dies before it replies.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import TypeAlias, cast, get_args

import redis

from contracts.errors import DeadlineExceeded, Draining
from contracts.inference.inference import Operation
from contracts.queue import redis_keys, scripts
from contracts.queue.messages import Item, MalformedMessageError, ReadShared, Reply, Vector
from contracts.queue.redis_keys import QueueGroup, QueueName
from contracts.queue.shared_pixels import SharedPixelsReader

Source: TypeAlias = QueueName | QueueGroup
"""What a task tells a worker to process."""

# The reply list of an API process that is gone must not stay forever.
_REPLIES_EXPIRE_SECONDS = 120
_LOST_EXPIRE_SECONDS = 10
_MISSING_SECONDS = 3600  # after which nobody waits for an image any more
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


@dataclass(frozen=True, slots=True)
class QueuedItem:
    """An image that was taken, and the queue that it was taken from."""

    queue: QueueName
    item: Item


class WorkerQueues:
    """All queues, as one worker uses them.

    Args:
        client: A connection whose answers are bytes.
        worker_id: The owner of the claims.
        celery_queues: Where its tasks come from: a task in one of them may be its next.

    Attributes:
        shared_pixels: Where the pixels are that do not travel with their items.
    """

    def __init__(
        self, client: "redis.Redis", worker_id: str, celery_queues: Sequence[str] = ()
    ) -> None:
        self._client = client
        self._claims = redis_keys.claims(worker_id)
        self._lost_claims = redis_keys.lost_claims(worker_id)
        self._in_hand: set[bytes] = set()  # `add` and `discard` are atomic
        self._missing: dict[bytes, float] = {}  # since when, in seconds of `time.monotonic`
        self.shared_pixels = SharedPixelsReader()
        self._schedule = client.register_script(scripts.SCHEDULE)
        self._renew = client.register_script(scripts.RENEW)
        self._take = client.register_script(scripts.TAKE)
        self._take_group = client.register_script(scripts.TAKE_GROUP)
        self._give_back = client.register_script(scripts.GIVE_BACK)
        self._notify_keys = [redis_keys.notify_in(queue) for queue in celery_queues]
        self._scheduled_keys = [redis_keys.scheduled_in(queue) for queue in celery_queues]
        self._other_keys = [
            key
            for queue in celery_queues
            for key in (redis_keys.scheduled_in(queue), redis_keys.notify_in(queue))
        ]
        self._rate_written: dict[QueueName, float] = {}

    def clear_scheduled(self, source: Source, celery_queue: str) -> None:
        """From now on, a push schedules the next task, on this worker or another."""
        pipe = self._client.pipeline(transaction=False)
        pipe.delete(source.scheduled_key)
        pipe.zrem(redis_keys.scheduled_in(celery_queue), source.key)
        pipe.execute()

    def set_scheduled(self, source: Source, celery_queue: str) -> bool:
        """Whether the caller has to send the next task; False if one is already scheduled."""
        keys = [source.scheduled_key, redis_keys.scheduled_in(celery_queue)]
        return bool(self._schedule(keys=keys, args=[redis_keys.SCHEDULED_EXPIRE_MS, source.key]))

    def noted(self) -> list[Source]:
        """What may have a task in one of the worker's Celery queues, among it what had one."""
        pipe = self._client.pipeline(transaction=False)
        for key in self._scheduled_keys:
            pipe.zrange(key, 0, -1)
        names = [name.decode() for found in pipe.execute() for name in found]
        return [redis_keys.source_of(name) for name in names]

    def renew_scheduled(self, source: Source, celery_queue: str) -> None:
        """Go on saying that the next task is on its way, so that pushes send no other."""
        keys = [source.scheduled_key, redis_keys.scheduled_in(celery_queue)]
        self._renew(keys=keys, args=[redis_keys.SCHEDULED_EXPIRE_MS, source.key])

    def waiting(self, sources: Sequence[Source]) -> list[Source]:
        """Those of the queues or groups that contain images and whose task is on its way."""
        pipe = self._client.pipeline(transaction=False)
        for source in sources:
            images = source.ready_key if isinstance(source, QueueGroup) else source.key
            pipe.exists(source.scheduled_key)
            pipe.exists(images)
        found = pipe.execute() if sources else []
        both = zip(found[::2], found[1::2], strict=True)
        return [source for source, given in zip(sources, both, strict=True) if all(given)]

    def take(self, queue: QueueName, limit: int) -> list[Item]:
        """At most `limit` images, oldest first; those of clients that have gone are dropped."""
        return [taken.item for taken in self.take_unless(queue, limit) or []]

    def take_unless(self, source: Source, limit: int) -> list[QueuedItem] | None:
        """As `take`, but reports when there are none and something else is scheduled.

        Args:
            source: A queue, or a group, whose queues are served in turn.
            limit: The most images.

        Returns:
            The images; None if there are none and another task waits in one of the worker's
            Celery queues.
        """
        args: list[str | int] = [limit, source.key]
        if isinstance(source, QueueGroup):
            keys = [source.ready_key, self._claims, source.notify_key, *self._other_keys]
            answer = cast(list[bytes] | int, self._take_group(keys=keys, args=args))
            if isinstance(answer, int):
                return None
            return self._received(zip(answer[::2], answer[1::2], strict=True))
        keys = [source.key, self._claims, source.notify_key, *self._other_keys]
        answer = cast(list[bytes] | int, self._take(keys=keys, args=args))
        if isinstance(answer, int):
            return None
        return self._received((source, raw) for raw in answer)

    def _received(self, taken: Iterable[tuple[bytes | QueueName, bytes]]) -> list[QueuedItem]:
        received = list(_unpacked(taken, self.shared_pixels.read))
        self._in_hand.update(one.item.id for one in received)
        return received

    def let_go(self, items: Iterable[Item]) -> None:
        """Forget images that were taken, whether or not they could be answered."""
        self._in_hand.difference_update(item.id for item in items)

    def report_lost(self, client: "redis.Redis") -> None:
        """Tell the API which claimed images this worker does not have; call it once a second.

        If a connection is cut while images are on their way, they have left their queue and are
        claimed, but no worker has them. So are those whose replies could not be sent. What is
        missing twice in a row is lost; before that, it may still be on its way.

        Args:
            client: A connection of the calling thread.
        """
        claimed = cast("set[bytes]", client.smembers(self._claims))
        missing, now = claimed - self._in_hand, time.monotonic()
        lost = missing & self._missing.keys()
        self._missing = {item_id: self._missing.get(item_id, now) for item_id in missing}
        if lost:
            pipe = client.pipeline(transaction=False)
            pipe.sadd(self._lost_claims, *lost)
            pipe.expire(self._lost_claims, _LOST_EXPIRE_SECONDS)
            if old := [one for one in lost if now > self._missing[one] + _MISSING_SECONDS]:
                pipe.srem(self._claims, *old)
            pipe.execute()

    def follow_shared_pixels(self, client: "redis.Redis") -> None:
        """Open the memory of each API process whose memory this worker can read.

        Args:
            client: A connection of the calling thread.
        """
        self.shared_pixels.follow(
            cast("list[bytes]", client.zrange(redis_keys.SHARED_PIXELS, 0, -1))
        )

    def give_back(
        self, queue: QueueName, items: Sequence[Item], now: float, group: QueueGroup | None
    ) -> None:
        """Put images back to the front of their queue, as this worker cannot answer them.

        Args:
            queue: Where they were taken from.
            items: Which, in their order.
            now: Unix time by the clock of their deadlines.
            group: What they were taken for, if for a group; it is not ready there any more.
        """
        seconds = max([1.0, *(item.deadline - now for item in items)])
        ids, raws = [item.id for item in items], [item.pack() for item in items]
        keys = [queue.key, self._claims, *([] if group is None else [group.ready_key])]
        self._give_back(keys=keys, args=[int(seconds * 1000), *ids, *raws])

    def wait_for_push(self, source: Source, seconds: float) -> None:
        """Wait until images are pushed to a queue or group, or another task is sent.

        Args:
            source: The queue or group.
            seconds: How long at most; at least a millisecond, since for Redis 0 means forever.
        """
        self._client.blpop([source.notify_key, *self._notify_keys], timeout=max(seconds, 0.001))

    def count_waiting(self, model: str, version: int) -> int:
        """Images in all queues of a version; 1 if Redis does not answer, as if one waited."""
        try:
            queues = [QueueName(model, version, operation) for operation in get_args(Operation)]
            return sum(int(self._client.llen(queue.key)) for queue in queues)
        except redis.RedisError:
            return 1

    def send_replies(
        self, replies: Sequence[tuple[Item, Reply]], rates: Mapping[QueueName, float]
    ) -> None:
        """Send the replies of one batch and record the rates of its queues.

        Args:
            replies: Each item with its reply.
            rates: Images per second of each queue, for `Retry-After`.
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
        for queue, rate in rates.items():
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


def _unpacked(
    messages: Iterable[tuple[bytes | QueueName, bytes]], read_shared: ReadShared
) -> Iterator[QueuedItem]:
    """What was taken; the first of a pair is a queue or its key."""
    for queue, raw in messages:
        try:
            item = Item.unpack(raw, read_shared)
        except MalformedMessageError:
            # Made by another release, or by an API process whose memory cannot be read. It is
            # claimed and not in hand, so that its sender, if there is one, queues it again.
            continue
        name = QueueName.of_key(queue.decode()) if isinstance(queue, bytes) else queue
        yield QueuedItem(name, item)


class Cancellation:
    """Ends slow operations early: when the worker stops, or no client waits any more.

    Args:
        queues: Where abandoned images are marked.
        stopping: Set when the worker has been told to stop.
        clock: Unix time in seconds, by the clock of the deadlines.
    """

    def __init__(self, queues: WorkerQueues, stopping: Event, clock: Callable[[], float]) -> None:
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
        if all(item.is_late(now) or self._queues.is_abandoned(item) for item in items):
            raise DeadlineExceeded(late)
