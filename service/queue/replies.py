"""The Redis list on which this process receives its replies, and the futures that wait for them."""

import asyncio
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError

from contracts.queue import redis_keys
from contracts.queue.messages import Item, MalformedMessageError, Reply
from contracts.queue.redis_keys import QueueName
from contracts.queue.shared_pixels import SharedPixels
from service.periodic import PeriodicTask
from service.queue.pipelining import PipelinedConnection

log = structlog.get_logger()

_BLOCK_SECONDS = 1.0
_BATCH = 64
_TAKEN_EXPIRE_MS = 120_000
_TAKE = """
local replies = redis.call('LRANGE', KEYS[1], 0, ARGV[1] - 1)
if #replies > 0 then
    redis.call('RPUSH', KEYS[2], unpack(replies)) -- fails if memory is full
    redis.call('LTRIM', KEYS[1], #replies, -1)
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return replies
"""


@dataclass(frozen=True, slots=True)
class PendingItem:
    """An image without a reply yet, kept so that it can be sent again if its worker is lost."""

    item: Item
    queue: QueueName
    future: "asyncio.Future[Reply]"


class Replies:
    """Receives replies and resolves the future of each.

    Args:
        client: A connection that nothing else uses, for it blocks.
        api_id: Names this process's list.
        pixels: Contains the pixels of pending items, until they are no longer pending.

    Attributes:
        pending: The images without a reply yet, by id.
    """

    def __init__(self, client: Redis, api_id: str, pixels: SharedPixels | None = None) -> None:
        self._client = client
        self._pipelined = PipelinedConnection(client)
        self._pixels = pixels
        self.key = redis_keys.replies(api_id)
        self._taken = redis_keys.taken_replies(api_id)
        self._delivered: int | None = None  # of those in the list of taken ones; None if unknown
        self.pending: dict[bytes, PendingItem] = {}
        self._receiver = PeriodicTask(
            "replies", self._receive, seconds=0, after_fault=_BLOCK_SECONDS / 4
        )

    def start(self) -> None:
        self._receiver.start()

    async def stop(self) -> None:
        await self._receiver.stop()

    def expect(self, item: Item, queue: QueueName) -> "asyncio.Future[Reply]":
        """A future of the reply; call `forget` when it is no longer wanted."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.pending[item.id] = PendingItem(item, queue, future)
        return future

    def forget(self, item_id: bytes) -> None:
        self._remove(item_id)

    def deliver(self, reply: Reply) -> None:
        """Resolve the future of a reply. A second reply to the same item is dropped."""
        pending = self._remove(reply.id)
        if pending and not pending.future.done():
            pending.future.set_result(reply)

    def _remove(self, item_id: bytes) -> PendingItem | None:
        if self._pixels is not None:
            self._pixels.release(item_id)
        return self.pending.pop(item_id, None)

    async def _receive(self) -> None:
        """Deliver what has come, or wait for it.

        Redis moves replies to a second list as it sends them, because they may never arrive: a
        connection may be lost, or a proxy in between replaced. With the next call, those that have
        arrived are removed. After a fault, the whole list is read.
        """
        taken = self._taken
        if self._delivered is None:
            replies: list[Any] = await self._client.lrange(taken, 0, -1)
            self._deliver_all(replies)
            self._delivered = len(replies)
        remove = "LTRIM", taken, self._delivered, -1
        wait = "BLMOVE", self.key, taken, "LEFT", "RIGHT", _BLOCK_SECONDS
        take = "EVAL", _TAKE, 2, self.key, taken, _BATCH, _TAKEN_EXPIRE_MS
        self._delivered = None
        try:
            # Together, so that all replies of a batch arrive at once: Redis executes the last
            # command as soon as there is a reply for the one before.
            _, first, others = await self._pipelined.call(remove, wait, take)
        except RedisConnectionError:
            await self._client.blmove(self.key, taken, _BLOCK_SECONDS)  # type: ignore[arg-type]
            return
        except OutOfMemoryError:  # there is no room for a second list
            replies = await self._client.lpop(self.key, _BATCH) or []  # type: ignore[assignment]
            if not replies:
                raise
            self._deliver_all(replies)
            return
        replies = [*([] if first is None else [first]), *others]
        self._deliver_all(replies)
        self._delivered = len(replies)

    def _deliver_all(self, messages: list[bytes]) -> None:
        for raw in messages:
            try:
                self.deliver(Reply.unpack(raw))
            except MalformedMessageError:
                log.warning("reply_unreadable", size=len(raw))
