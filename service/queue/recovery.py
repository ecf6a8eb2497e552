"""Once a second, re-schedules queues without a task and re-queues the claims of dead workers.

Also what a living worker has claimed without having received it.

So a lost task, a killed worker, a Redis that was restarted or whose clock was set forward costs a
second instead of the deadline.
"""

from dataclasses import replace

import structlog

from contracts.metrics.registry import Metrics
from contracts.queue.messages import Reply
from service.periodic import PeriodicTask
from service.queue.client import QueueClient
from service.queue.dispatcher import BatchTaskSender
from service.queue.replies import PendingItem, Replies
from service.queue.workers import WorkerRegistry

log = structlog.get_logger()

_INTERVAL_SECONDS = 1.0
_MAX_ATTEMPTS = 2


class Recovery:
    """Sends lost tasks again, and once more the images of workers that died."""

    def __init__(
        self,
        queues: QueueClient,
        replies: Replies,
        tasks: BatchTaskSender,
        workers: WorkerRegistry,
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics or Metrics()
        self._queues = queues
        self._replies = replies
        self._tasks = tasks
        self._workers = workers
        self._known: set[str] = set()
        self._lost: dict[str, set[bytes]] = {}
        self._epoch: str | None = None
        self._jumped = workers.clock.jumped
        self._task = PeriodicTask("recovery", self.run_once, seconds=_INTERVAL_SECONDS)

    def start(self) -> None:
        self._task.start()

    async def stop(self) -> None:
        await self._task.stop()

    async def run_once(self) -> None:
        if not self._workers.redis_ok:
            # An unreachable Redis says nothing about which workers are alive.
            return
        await self._requeue_after_loss()
        alive = {worker.id for worker in self._workers.workers}
        pending = self._replies.pending.keys()
        self._lost = {worker_id: ids & pending for worker_id, ids in self._lost.items()}
        self._lost = {worker_id: ids for worker_id, ids in self._lost.items() if ids}
        for worker_id in self._known - alive:
            await self._recover(worker_id)
        self._known = alive
        for worker_id in alive & self._lost.keys():
            self._clear_lost(worker_id)
        await self._requeue_missing(alive)
        # Also those whose images nobody waits for any more: they would keep others out.
        waiting = {item.queue for item in self._replies.pending.values()} | self._workers.waiting
        for queue in waiting:
            group = self._workers.group(queue)
            if await self._queues.schedule_if_idle(queue, group):
                await self._tasks.send(queue, group)

    async def _recover(self, worker_id: str) -> None:
        """Queue again what a lost worker had taken and not answered."""
        claimed = await self._queues.claimed(worker_id)
        items = [item for item_id in claimed if (item := self._replies.pending.get(item_id))]
        if not items:
            return
        log.warning("worker_lost", worker=worker_id, images=len(items))
        self._metrics.inc("requeued_images_total", by=len(items))
        for pending in items:
            await self._retry(pending)
            await self._queues.release(worker_id, [pending.item.id])
        self._lost[worker_id] = {pending.item.id for pending in items}

    async def _requeue_missing(self, alive: set[str]) -> None:
        """Queue again what has left its queue and reached no worker; that counts no attempt."""
        for worker_id, ids in (await self._queues.lost(alive)).items():
            items = [item for item_id in ids if (item := self._replies.pending.get(item_id))]
            if not items:
                continue
            log.warning("images_missing", worker=worker_id, images=len(items))
            self._metrics.inc("requeued_images_total", by=len(items))
            await self._queues.release(worker_id, [pending.item.id for pending in items])
            for pending in items:
                await self._push(pending)

    def _clear_lost(self, worker_id: str) -> None:
        """Do not count the attempts of a worker that turns out to be alive.

        On a busy machine a worker may be late with its heartbeat, for example while TensorFlow is
        being imported. That is not the fault of its images.
        """
        log.info("worker_returned", worker=worker_id)
        for item_id in self._lost.pop(worker_id):
            pending = self._replies.pending.get(item_id)
            if pending is not None and pending.item.attempt > 1:
                item = replace(pending.item, attempt=pending.item.attempt - 1)
                self._replies.pending[item_id] = replace(pending, item=item)

    async def _requeue_after_loss(self) -> None:
        """Push all pending images again if Redis may have lost them since the last check.

        That is, if it was restarted, or its clock was set forward, so that queues expired. Images
        that Redis kept all the same are computed twice; the second reply is dropped.
        """
        epoch, jumped = await self._queues.server_epoch(), self._workers.clock.jumped
        seconds, is_restarted = jumped - self._jumped, self._epoch not in (None, epoch)
        if is_restarted or seconds:
            items = list(self._replies.pending.values())
            event = "redis_restarted" if is_restarted else "redis_clock_set_forward"
            log.warning(event, images=len(items), seconds=round(seconds))
            for pending in items:
                await self._push(replace(pending, item=pending.item.later(seconds)))
        self._epoch, self._jumped = epoch, jumped

    async def _retry(self, pending: PendingItem) -> None:
        """Count the lost attempt and queue the image again, or give up."""
        item = pending.item
        if item.id not in self._replies.pending:
            return  # answered, or its client has gone, in the meantime
        if item.attempt >= _MAX_ATTEMPTS:
            # An image whose workers died twice may have caused it.
            error = ("internal_error", "Two workers in a row died while they had this image.")
            self._replies.deliver(Reply(item.id, 0, 1, 0, 0, error=error))
            return
        next_attempt = replace(pending, item=replace(item, attempt=item.attempt + 1))
        await self._push(next_attempt)
        if item.id in self._replies.pending:
            self._replies.pending[item.id] = next_attempt

    async def _push(self, pending: PendingItem) -> None:
        seconds = max(1.0, pending.item.deadline - pending.item.enqueued)
        group = self._workers.group(pending.queue)
        push = await self._queues.push(
            pending.queue, [pending.item], seconds=seconds, admitted=True, group=group
        )
        if push.must_schedule:
            await self._tasks.send(pending.queue, group)
