"""The watchman: once a second, looks for images that nobody drains and for work of lost workers.

So a lost drain task, a killed worker or a restarted Redis costs a second and not the deadline.
"""

import asyncio
from dataclasses import replace

import structlog
from redis.exceptions import RedisError

from contracts.errors import OpsinError
from contracts.messages import Reply
from service.dispatch import Drains
from service.lanes import Lanes
from service.presence import Presence
from service.replies import Replies, Waiting

log = structlog.get_logger()

_EVERY_SECONDS = 1.0
_MAX_ATTEMPTS = 2


class Sweep:
    """Sends drains that were lost, and images whose worker died, once more."""

    def __init__(self, lanes: Lanes, replies: Replies, drains: Drains, presence: Presence) -> None:
        self._lanes = lanes
        self._replies = replies
        self._drains = drains
        self._presence = presence
        self._known: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._sweep_on(), name="sweep")

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _sweep_on(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            try:
                await self.sweep()
            except (RedisError, OSError, OpsinError) as error:
                log.warning("sweep_failed", error=type(error).__name__)

    async def sweep(self) -> None:
        """Look once."""
        if not self._presence.redis_ok:
            # An unreachable Redis says nothing about who lives.
            return
        alive = {worker.id for worker in self._presence.workers}
        for worker_id in self._known - alive:
            await self._recover(worker_id)
        self._known = alive
        for lane in {waiting.lane for waiting in self._replies.waiting.values()}:
            if await self._lanes.nudge(lane):
                await self._drains.send(lane)

    async def _recover(self, worker_id: str) -> None:
        """Send again, once, what a lost worker had taken and not answered."""
        claimed = await self._lanes.claimed(worker_id)
        ours = [self._replies.waiting[one] for one in claimed if one in self._replies.waiting]
        if not ours:
            return
        log.warning("worker_lost", worker=worker_id, images=len(ours))
        await self._lanes.release(worker_id, [waiting.item.id for waiting in ours])
        for waiting in ours:
            await self._again(waiting)

    async def _again(self, waiting: Waiting) -> None:
        item = waiting.item
        if item.attempt >= _MAX_ATTEMPTS:
            # An image that took two workers down with it does not get a third.
            failed = ("internal_error", "The worker was lost twice on this image.")
            self._replies.deliver(Reply(item.id, 0, 1, 0, 0, error=failed))
            return
        item = replace(item, attempt=item.attempt + 1)
        self._replies.waiting[item.id] = replace(waiting, item=item)
        seconds = max(1.0, item.deadline - item.enqueued)
        push = await self._lanes.push(waiting.lane, [item], seconds=seconds, again=True)
        if push.schedule:
            await self._drains.send(waiting.lane)
