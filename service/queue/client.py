"""The API's access to the queues in Redis: push and abandon images, schedule tasks, read claims."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError

from contracts.queue import redis_keys, scripts
from contracts.queue.messages import Item
from contracts.queue.redis_keys import QueueGroup, QueueName
from contracts.queue.shared_pixels import SharedPixels
from contracts.settings import MIB
from models.catalog import queue_of
from service.queue.admission import QueueLimits
from service.queue.pipelining import PipelinedConnection

_NO_LIMIT = 1 << 30
# All pushes on the pipelined connection wait for those before them, and are lost with it. Without
# shared memory, a clip may have 64 MB, and thirty-two images of a large input a hundred.
_MAX_PIPELINED_BYTES = MIB


@dataclass(frozen=True, slots=True)
class PushResult:
    """The outcome of a push.

    Attributes:
        accepted: False if the queue has no room.
        must_schedule: True if the caller has to send the queue's next task.
        depth: How many images wait.
    """

    accepted: bool
    must_schedule: bool
    depth: int


@dataclass(frozen=True, slots=True)
class Push:
    """Images for one queue.

    Attributes:
        queue: Where they go.
        items: The images.
        admitted: They were admitted before, so the limit does not apply to them.
        group: What a worker processes in place of the queue.
        shared: Whether all workers can read this process's shared memory, where the pixels then
            are until the item is no longer pending.
    """

    queue: QueueName
    items: Sequence[Item]
    admitted: bool = False
    group: QueueGroup | None = None
    shared: bool = False


class QueueClient:
    """All queues, as one API process uses them.

    Args:
        client: A connection whose answers are bytes.
        limits: How many images may wait in each queue. A request with more images than that is
            still accepted when nothing else waits, so that no request is impossible.
        pixels: Memory that this process shares with workers, if it does.
    """

    def __init__(
        self, client: Redis, limits: QueueLimits, pixels: SharedPixels | None = None
    ) -> None:
        self._client = client
        self._pixels = pixels
        self._limits = limits
        self._push = client.register_script(scripts.PUSH)
        self._pipelined = PipelinedConnection(client)
        self._schedule_if_idle = client.register_script(scripts.SCHEDULE_IF_IDLE)

    async def push(
        self,
        queue: QueueName,
        items: Sequence[Item],
        *,
        seconds: float,
        admitted: bool = False,
        group: QueueGroup | None = None,
        shared: bool = False,
    ) -> PushResult:
        """Append images to a queue, all or none.

        Args:
            queue: Where to.
            items: The images.
            seconds: How long they stay if no worker takes them.
            admitted: They were admitted before, so the limit does not apply to them.
            group: What a worker processes in place of the queue.
            shared: As for `Push`.
        """
        keys, args = self._push_arguments(Push(queue, items, admitted, group, shared), seconds)
        if sum(len(one) for one in args if isinstance(one, bytes)) > _MAX_PIPELINED_BYTES:
            return _push_result(await self._push(keys=keys, args=args))
        try:
            command = ("EVALSHA", self._push.sha, len(keys), *keys, *args)
            (answer,) = await self._pipelined.call(command)
        except (RedisConnectionError, NoScriptError):
            answer = await self._push(keys=keys, args=args)
        return _push_result(answer)

    async def push_together(self, pushes: Sequence[Push], *, seconds: float) -> list[PushResult]:
        """Push to several queues, so that no worker sees the first before the last.

        Each push is accepted or not by itself.
        """
        # redis-py looks for the script before the part of `execute` that gives the connection back.
        async with self._client.pipeline() as pipe:
            for one in pushes:
                keys, args = self._push_arguments(one, seconds)
                await self._push(keys=keys, args=args, client=pipe)
            return [_push_result(answer) for answer in await pipe.execute()]

    def _push_arguments(
        self, push: Push, seconds: float
    ) -> tuple[list[str], list[bytes | str | int]]:
        """The keys and arguments of the script."""
        queue, source = push.queue, push.group or push.queue
        celery_queue = queue_of(queue.model)
        keys = [
            queue.key,
            source.scheduled_key,
            source.notify_key,
            redis_keys.scheduled_in(celery_queue),
            redis_keys.notify_in(celery_queue),
            *([] if push.group is None else [push.group.ready_key]),
        ]
        args: list[bytes | str | int] = [
            _NO_LIMIT if push.admitted else self._limits.limit(queue),
            max(1, int(seconds * 1000)),
            redis_keys.SCHEDULED_EXPIRE_MS,
            redis_keys.NOTIFY_EXPIRE_MS,
            source.key,
            *(self._pack(item) if push.shared else item.pack() for item in push.items),
        ]
        return keys, args

    def _pack(self, item: Item) -> bytes:
        return item.pack(b"" if self._pixels is None else self._pixels.put(item.id, item.pixels))

    async def schedule_if_idle(self, queue: QueueName, group: QueueGroup | None = None) -> bool:
        """Whether images wait and no task was scheduled; then the caller has to send one.

        Args:
            queue: Where they would wait.
            group: As for `push`.
        """
        source = group or queue
        keys = [
            queue.key,
            source.scheduled_key,
            redis_keys.scheduled_in(queue_of(queue.model)),
            *([] if group is None else [group.ready_key]),
        ]
        args: list[str | int] = [redis_keys.SCHEDULED_EXPIRE_MS, source.key]
        return bool(await self._schedule_if_idle(keys=keys, args=args))

    async def abandon(self, ids: Iterable[bytes], *, seconds: float) -> None:
        """Mark images whose client has gone; a worker that takes them drops them."""
        pipe = self._client.pipeline(transaction=False)
        for item_id in ids:
            pipe.set(redis_keys.abandoned(item_id), 1, px=max(1, int(seconds * 1000)))
        await pipe.execute()

    async def server_epoch(self) -> str:
        """A value that changes when Redis was restarted, replaced or wiped.

        Images that were pushed before the change may be lost, if only those of its last second.
        """
        pipe = self._client.pipeline(transaction=False)
        pipe.set(redis_keys.EPOCH, secrets.token_hex(8), nx=True)
        pipe.get(redis_keys.EPOCH)
        pipe.info("server")
        created, epoch, server = await pipe.execute(raise_on_error=False)
        for answer in (created, epoch):
            if isinstance(answer, Exception):
                raise answer
        # An access control list may forbid INFO. Then only a loss of the data is noticed.
        run_id = "" if isinstance(server, Exception) else server["run_id"]
        return f"{run_id}:{epoch.decode()}"

    async def claimed(self, worker_id: str) -> set[bytes]:
        """The ids of images that a worker has taken and not answered."""
        return cast(set[bytes], await self._client.smembers(redis_keys.claims(worker_id)))

    async def lost(self, worker_ids: Iterable[str]) -> dict[str, set[bytes]]:
        """The ids of images that living workers have claimed and do not have, by worker."""
        workers = list(worker_ids)
        pipe = self._client.pipeline(transaction=False)
        for worker_id in workers:
            pipe.smembers(redis_keys.lost_claims(worker_id))
        return dict(zip(workers, await pipe.execute() if workers else [], strict=True))

    async def release(self, worker_id: str, ids: Iterable[bytes]) -> None:
        """Remove claims of a worker that is gone, or that does not have these images."""
        pipe, released = self._client.pipeline(transaction=False), list(ids)
        pipe.srem(redis_keys.claims(worker_id), *released)
        pipe.srem(redis_keys.lost_claims(worker_id), *released)
        await pipe.execute()


def _push_result(answer: object) -> PushResult:
    accepted, scheduled, depth = cast(list[int], answer)
    return PushResult(accepted=bool(accepted), must_schedule=bool(scheduled), depth=depth)
