"""The Redis list on which this process receives its replies, and the futures that wait for them."""

import asyncio
from dataclasses import dataclass

import structlog
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from contracts.queue import redis_keys
from contracts.queue.messages import Item, MalformedMessageError, Reply
from contracts.queue.redis_keys import QueueName
from contracts.queue.shared_pixels import SharedPixels
from service.periodic import PeriodicTask
from service.queue.pipelining import PipelinedConnection

log = structlog.get_logger()

_BLOCK_SECONDS = 1.0
_BATCH = 64


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
        wait, take = ("BLPOP", self.key, _BLOCK_SECONDS), ("LPOP", self.key, _BATCH)
        try:
            # Together, so that all replies of a batch arrive at once: Redis executes the second
            # command as soon as there is a reply for the first one.
            first, others = await self._pipelined.call(wait, take)
        except RedisConnectionError:
            first, others = await self._client.blpop([self.key], timeout=_BLOCK_SECONDS), None
        self._deliver_all([*(first or [])[1:], *(others or [])])

    def _deliver_all(self, messages: list[bytes]) -> None:
        for raw in messages:
            try:
                self.deliver(Reply.unpack(raw))
            except MalformedMessageError:
                log.warning("reply_unreadable", size=len(raw))
