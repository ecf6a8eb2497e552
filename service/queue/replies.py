"""The one list on which this process receives its answers, and the futures that wait for them."""

import asyncio
from dataclasses import dataclass
from typing import cast

import structlog
from redis.asyncio import Redis

from contracts.queue import redis_keys
from contracts.queue.messages import Item, MalformedMessageError, Reply
from service.periodic import Rounds

log = structlog.get_logger()

_BLOCK_SECONDS = 1.0
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Waiting:
    """An image under way, kept so that it can be sent again if its worker is lost."""

    item: Item
    lane: str
    future: "asyncio.Future[Reply]"


class Replies:
    """Waits for answers and hands each to whoever asked.

    Args:
        client: A connection of its own, for it blocks.
        api_id: Names this process's list.
    """

    def __init__(self, client: Redis, api_id: str) -> None:
        self._client = client
        self.key = redis_keys.replies(api_id)
        self.waiting: dict[bytes, Waiting] = {}
        self._rounds = Rounds("replies", self._receive, seconds=0, after_fault=_BLOCK_SECONDS / 4)

    def start(self) -> None:
        self._rounds.start()

    async def stop(self) -> None:
        await self._rounds.stop()

    def expect(self, item: Item, lane: str) -> "asyncio.Future[Reply]":
        """A future of the reply; `forget` it when nobody waits any more."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.waiting[item.id] = Waiting(item, lane, future)
        return future

    def forget(self, item_id: bytes) -> None:
        self.waiting.pop(item_id, None)

    def deliver(self, reply: Reply) -> None:
        """Hand over one answer. A second one to the same item finds nobody and is dropped."""
        waiting = self.waiting.pop(reply.id, None)
        if waiting and not waiting.future.done():
            waiting.future.set_result(reply)

    async def _receive(self) -> None:
        first = await self._client.blpop([self.key], timeout=_BLOCK_SECONDS)
        if first:
            self._deliver_all([cast(bytes, first[1])])
            # After it, so that a connection lost between the two loses no answer.
            self._deliver_all(cast(list[bytes], await self._client.lpop(self.key, _BATCH) or []))

    def _deliver_all(self, raws: list[bytes]) -> None:
        for raw in raws:
            try:
                self.deliver(Reply.unpack(raw))
            except MalformedMessageError:
                log.warning("reply_unreadable", size=len(raw))
