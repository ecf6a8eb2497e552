"""The watchman: once a second, looks for images that nobody drains and for work of lost workers.

So a lost drain task, a killed worker or a restarted Redis costs a second and not the deadline.
"""

from dataclasses import replace

import structlog

from contracts.queue.messages import Reply
from service.periodic import Rounds
from service.queue.client import Lanes
from service.queue.dispatcher import Drains
from service.queue.replies import Replies, Waiting
from service.queue.workers import Presence

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
        self._lost: dict[str, set[bytes]] = {}
        self._incarnation: str | None = None
        self._rounds = Rounds("sweep", self.sweep, seconds=_EVERY_SECONDS)

    def start(self) -> None:
        self._rounds.start()

    async def stop(self) -> None:
        await self._rounds.stop()

    async def sweep(self) -> None:
        """Look once."""
        if not self._presence.redis_ok:
            # An unreachable Redis says nothing about who lives.
            return
        await self._survive_restart()
        alive = {worker.id for worker in self._presence.workers}
        self._lost = {one: kept for one, ids in self._lost.items() if (kept := self._still(ids))}
        for worker_id in self._known - alive:
            await self._recover(worker_id)
        self._known = alive
        for worker_id in alive & self._lost.keys():
            self._forgive(worker_id)
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
        for waiting in ours:
            await self._again(waiting)
            await self._lanes.release(worker_id, [waiting.item.id])
        self._lost[worker_id] = {waiting.item.id for waiting in ours}

    def _forgive(self, worker_id: str) -> None:
        """Take back the attempts that were counted against the images of one who lives after all.

        A machine that is busy enough keeps a worker from telling of itself in time, as while
        TensorFlow is being read. That is not the images' fault.
        """
        log.info("worker_returned", worker=worker_id)
        for one in self._lost.pop(worker_id):
            waiting = self._replies.waiting.get(one)
            if waiting is not None and waiting.item.attempt > 1:
                item = replace(waiting.item, attempt=waiting.item.attempt - 1)
                self._replies.waiting[one] = replace(waiting, item=item)

    def _still(self, ids: set[bytes]) -> set[bytes]:
        """Those that somebody waits for yet."""
        return ids & self._replies.waiting.keys()

    async def _survive_restart(self) -> None:
        """Put everything on its lane again when Redis is not the one of the last look.

        What it kept all the same is computed twice, and the second answer finds nobody.
        """
        now = await self._lanes.incarnation()
        if self._incarnation not in (None, now):
            waiting = list(self._replies.waiting.values())
            log.warning("redis_restarted", images=len(waiting))
            for one in waiting:
                await self._push(one)
        self._incarnation = now

    async def _again(self, waiting: Waiting) -> None:
        """Count the attempt that was lost, and make the next one."""
        item = waiting.item
        if item.id not in self._replies.waiting:
            return  # answered, or its client gave up, since we looked
        if item.attempt >= _MAX_ATTEMPTS:
            # An image that took two workers down with it does not get a third.
            failed = ("internal_error", "The worker was lost twice on this image.")
            self._replies.deliver(Reply(item.id, 0, 1, 0, 0, error=failed))
            return
        again = replace(waiting, item=replace(item, attempt=item.attempt + 1))
        await self._push(again)
        if item.id in self._replies.waiting:
            self._replies.waiting[item.id] = again

    async def _push(self, waiting: Waiting) -> None:
        seconds = max(1.0, waiting.item.deadline - waiting.item.enqueued)
        push = await self._lanes.push(waiting.lane, [waiting.item], seconds=seconds, again=True)
        if push.schedule:
            await self._drains.send(waiting.lane)
