"""The API's access to the queues in Redis: push and abandon images, schedule tasks, read claims."""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from kombu.exceptions import OperationalError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from contracts.errors import Unavailable
from contracts.queue import redis_keys, scripts
from contracts.queue.messages import Item
from contracts.queue.redis_keys import QueueName
from service.queue.admission import QueueLimits

_NO_LIMIT = 1 << 30


@contextmanager
def redis_required() -> Iterator[None]:
    """Turn the errors of a Redis that does not answer into an error for the client.

    Raises:
        Unavailable: Redis, or Celery's connection to it, does not answer.
    """
    try:
        yield
    except (RedisError, OperationalError, OSError) as error:
        raise Unavailable("The queue does not answer. Retry shortly.", retry_after=2) from error


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


class QueueClient:
    """All queues, as one API process uses them.

    Args:
        client: A connection whose answers are bytes.
        limits: How many images may wait in each queue. A request with more images than that is
            still accepted when nothing else waits, so that no request is impossible.
    """

    def __init__(self, client: Redis, limits: QueueLimits) -> None:
        self._client = client
        self._limits = limits
        self._push = client.register_script(scripts.PUSH)
        self._schedule_if_idle = client.register_script(scripts.SCHEDULE_IF_IDLE)

    async def push(
        self, queue: QueueName, items: Sequence[Item], *, seconds: float, admitted: bool = False
    ) -> PushResult:
        """Append images to a queue, all or none.

        Args:
            queue: Where to.
            items: The images.
            seconds: How long they stay if no worker takes them.
            admitted: They were admitted before, so the limit does not apply to them.
        """
        code, depth = cast(
            list[int],
            await self._push(
                keys=[queue.key, queue.scheduled_key, queue.notify_key],
                args=[
                    _NO_LIMIT if admitted else self._limits.limit(queue),
                    max(1, int(seconds * 1000)),
                    redis_keys.SCHEDULED_EXPIRE_MS,
                    redis_keys.NOTIFY_EXPIRE_MS,
                    *(item.pack() for item in items),
                ],
            ),
        )
        return PushResult(accepted=code >= 0, must_schedule=code == 1, depth=depth)

    async def schedule_if_idle(self, queue: QueueName) -> bool:
        """Whether images wait and no task was scheduled; then the caller has to send one."""
        keys = [queue.key, queue.scheduled_key]
        return bool(await self._schedule_if_idle(keys=keys, args=[redis_keys.SCHEDULED_EXPIRE_MS]))

    async def abandon(self, ids: Iterable[bytes], *, seconds: float) -> None:
        """Mark images whose client has gone; a worker that takes them drops them."""
        pipe = self._client.pipeline(transaction=False)
        for item_id in ids:
            pipe.set(redis_keys.abandoned(item_id), 1, px=max(1, int(seconds * 1000)))
        await pipe.execute()

    async def depth(self, queue: QueueName) -> int:
        return int(await self._client.llen(queue.key))

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

    async def release(self, worker_id: str, ids: Iterable[bytes]) -> None:
        """Remove claims of a worker that is gone."""
        await self._client.srem(redis_keys.claims(worker_id), *ids)
