"""From decoded images to the network's answers: permit, lane, drain, wait.

Celery carries one `drain` task a batch; the images go beside it on the lane.
"""

import asyncio
import math
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from contracts.errors import (
    DeadlineExceeded,
    InternalError,
    NoWorker,
    OpsinError,
    Unavailable,
    error_of,
)
from contracts.inference.inference import LaneOperation
from contracts.queue import redis_keys
from contracts.queue.messages import ID_LENGTH, TOP_CLASS, Item, Pixels, Reply
from models.catalog import queue_of
from service.queue.admission import Admission, queue_full
from service.queue.client import Lanes
from service.queue.replies import Replies
from service.queue.workers import Presence

log = structlog.get_logger()


class Drains:
    """Sends drain tasks. Publishing blocks, so it has a thread of its own."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="celery-publish")

    async def send(self, lane: str) -> None:
        """Ask a worker to empty `lane`.

        Raises:
            Unavailable: The broker does not answer.
        """
        _, model, version, operation = lane.split(":")
        await asyncio.get_running_loop().run_in_executor(
            self._thread, self._publish, model, int(version), operation
        )

    def _publish(self, model: str, version: int, operation: str) -> None:
        try:
            self._celery.send_task(
                redis_keys.TASK_DRAIN,
                args=[model, version, operation],
                queue=queue_of(model),
                expires=redis_keys.FLAG_EXPIRE_MS / 1000,
            )
        except (OperationalError, OSError) as error:
            raise _redis_away() from error

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


class Dispatch:
    """Runs images through the networks that the workers hold."""

    def __init__(
        self,
        lanes: Lanes,
        replies: Replies,
        drains: Drains,
        admission: Admission,
        presence: Presence,
    ) -> None:
        self._lanes = lanes
        self._replies = replies
        self._drains = drains
        self._admission = admission
        self._presence = presence
        self._leaving: set[asyncio.Task[None]] = set()

    def require_room(
        self, network: str, version: int, operation: LaneOperation, deadline: float = math.inf
    ) -> None:
        """Refuse early: a request that finds the queue full need not be read or decoded.

        Args:
            network: Name of the model.
            version: Its version.
            operation: What is to be done.
            deadline: As of `run`; left out where the answer may be known without a worker.

        Raises:
            QueueFull: As `run`.
        """
        lane = redis_keys.lane(network, version, operation)
        self._admission.require_room(lane, self._presence.rate(lane), self._reach(deadline))

    async def run(
        self,
        network: str,
        version: int,
        operation: LaneOperation,
        pixels: Sequence[Pixels],
        *,
        deadline: float,
        classes: Sequence[int] | None = None,
        note: bytes = b"",
    ) -> list[Reply | OpsinError]:
        """The answer to each image, in order: a reply, or the error of that image alone.

        Args:
            network: Name of the model.
            version: Its version.
            operation: What to do with the images.
            pixels: Decoded images, each (height, width, 3) uint8 of the network's input size.
            deadline: `time.monotonic()` seconds by which all must be there.
            classes: The class to explain of each, where there is something to explain.
            note: What is asked of all of them, see `contracts.queue.explain_messages`.

        Raises:
            QueueFull: There is no room; `retry_after` says when there will be.
            NoWorker: No worker lives that could do it.
            DeadlineExceeded: Not all answers came in time.
            Unavailable: Redis does not answer.
        """
        lane = redis_keys.lane(network, version, operation)
        rate = self._presence.rate(lane)
        with self._admission.permit(lane, len(pixels), rate, self._reach(deadline)):
            seconds = deadline - time.monotonic()
            items = [
                self._item(image, seconds, index, note)
                for image, index in zip(pixels, classes or [TOP_CLASS] * len(pixels), strict=True)
            ]
            futures = [self._replies.expect(item, lane) for item in items]
            try:
                async with asyncio.timeout_at(_loop_time(deadline)):
                    await self._push(lane, items, seconds, rate)
                # Outside: a deadline that falls into the push may be swallowed there, see `Rounds`.
                late = (await asyncio.wait(futures, timeout=deadline - time.monotonic()))[1]
                if late:
                    raise self._too_late(network)
                replies = [future.result() for future in futures]
            except TimeoutError:
                raise self._too_late(network) from None
            finally:
                self._leave(items, seconds)
        return [_checked(reply, version) for reply in replies]

    def _reach(self, deadline: float) -> float:
        """Seconds of one worker's time until then, of all that live: a rate is that of one."""
        return (deadline - time.monotonic()) * max(1, len(self._presence.workers))

    def _item(self, pixels: Pixels, seconds: float, class_index: int, note: bytes) -> Item:
        now = time.time()
        return Item(
            secrets.token_bytes(ID_LENGTH),
            now + seconds,
            now,
            self._replies.key,
            pixels,
            class_index=class_index,
            note=note,
        )

    async def _push(
        self, lane: str, items: Sequence[Item], seconds: float, rate: float | None
    ) -> None:
        try:
            push = await self._lanes.push(lane, items, seconds=seconds)
        except (RedisError, OSError) as error:
            raise _redis_away() from error
        if not push.accepted:
            raise queue_full(push.depth, rate)
        if push.schedule:
            await self._drains.send(lane)

    def _too_late(self, network: str) -> OpsinError:
        if not self._presence.workers:
            return NoWorker("The worker was lost and none came back in time. Retry.", retry_after=5)
        return DeadlineExceeded(
            f"'{network}' did not answer in time. Retry, or allow more in X-Timeout-Ms."
        )

    def _leave(self, items: Sequence[Item], seconds: float) -> None:
        """Stop waiting. What is still queued, because the client left, need not be computed."""
        unanswered = [item.id for item in items if item.id in self._replies.waiting]
        for item_id in unanswered:
            self._replies.forget(item_id)
        if unanswered:
            # Not awaited: a Redis that went silent would hold the answer back past its deadline.
            task = asyncio.create_task(self._abandon(unanswered, max(seconds, 1)))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _abandon(self, ids: Sequence[bytes], seconds: float) -> None:
        try:
            await self._lanes.abandon(ids, seconds=seconds)
        except (RedisError, OSError):
            log.warning("not_abandoned", count=len(ids))


def _checked(reply: Reply, version: int) -> Reply | OpsinError:
    """The reply, or its error; never one that another version made."""
    if reply.error:
        return error_of(*reply.error)
    if reply.version != version:
        log.error("wrong_version", wanted=version, answered=reply.version)
        return InternalError("Another version answered than was asked. Send the image again.")
    return reply


def _loop_time(deadline: float) -> float:
    """A monotonic deadline on the event loop's clock."""
    return asyncio.get_running_loop().time() + deadline - time.monotonic()


def _redis_away() -> Unavailable:
    return Unavailable("The queue does not answer. Retry shortly.", retry_after=2)
