"""From decoded images to the network's answers: admit, push, schedule a task, await the replies.

A Celery task wakes a worker for each turn of a queue; the images travel through the Redis list.
"""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog
from celery import Celery

from contracts.errors import (
    DeadlineExceeded,
    InternalError,
    NoWorker,
    OpsinError,
    QueueFull,
    error_of,
)
from contracts.queue import redis_keys
from contracts.queue.messages import ID_LENGTH, IMAGE_ID_LENGTH, TOP_CLASS, Item, Pixels, Reply
from contracts.queue.redis_keys import QueueGroup, QueueName
from contracts.random_bytes import random_bytes
from contracts.settings import MIB
from contracts.tracing.attributes import attributes_of
from contracts.tracing.origin import NO_ORIGIN, Origin, current_origin
from contracts.tracing.spans import current_span, span
from models.catalog import queue_of
from service.detached import DetachedTasks
from service.fair_budget import FairBudget
from service.inference.fair_pool import CALLER, NOBODY
from service.metrics.request_record import current_record
from service.queue.abandoned import AbandonedItems
from service.queue.admission import Admission, queue_full
from service.queue.client import Push, QueueClient
from service.queue.faults import redis_required
from service.queue.replies import Replies
from service.queue.turns import Turns, slice_size
from service.queue.workers import WorkerRegistry

log = structlog.get_logger()
T = TypeVar("T")
_Answers = dict[QueueName, list[Reply | OpsinError] | OpsinError]

_WAITING_BYTES = 512 * MIB  # in this process; 3,500 images of 224 x 224 pixels
_MAX_PUSHING = 128  # that go on although their requests have ended


class BatchTaskSender:
    """Sends the Celery tasks that make workers process a queue.

    Publishing blocks, so it happens in a separate thread.
    """

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="celery-publish")

    async def send(self, queue: QueueName, group: QueueGroup | None = None) -> None:
        """Have a worker process what waits.

        Args:
            queue: What to process.
            group: What to process in place of the queue, which is one of its own.

        Raises:
            Unavailable: The broker does not answer.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._publish, queue, group)

    def _publish(self, queue: QueueName, group: QueueGroup | None) -> None:
        with redis_required():
            # Without `expires`, which the worker would compare with its own host's clock. A task
            # that comes late finds an empty queue, and few are sent: one at a time per queue.
            self._celery.send_task(
                redis_keys.TASK_BATCH,
                args=redis_keys.batch_args(queue, group),
                queue=queue_of(queue.model),
            )

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


@dataclass(slots=True)
class Place:
    """Room in a queue for the images of a request; see `Dispatcher.place`.

    Attributes:
        may_exceed: Whether the queue's limit does not apply to them.
        is_held: Whether it was not given back.
    """

    may_exceed: bool
    _release: Callable[[], None]
    is_held: bool = True

    def give_back(self) -> None:
        """Let others have it; what is run with it is then admitted anew."""
        self.is_held = False
        self._release()


class Dispatcher:
    """Runs images through the networks that the workers have loaded.

    Attributes:
        waiting: What requests hold of decoded images, and of feature maps that wait to be drawn.
    """

    def __init__(
        self,
        queues: QueueClient,
        replies: Replies,
        tasks: BatchTaskSender,
        admission: Admission,
        workers: WorkerRegistry,
    ) -> None:
        self._queues = queues
        self._replies = replies
        self._tasks = tasks
        self._admission = admission
        self._workers = workers
        self.waiting = FairBudget(_WAITING_BYTES, "Too many images wait. Retry soon.")
        self._turns = Turns()
        self._abandoned = AbandonedItems(queues, replies)
        self._pushing = DetachedTasks()

    def require_room(self, queue: QueueName, deadline: float = math.inf) -> None:
        """Refuse early: a request for a full queue need not be read or decoded.

        Args:
            queue: Where its images would go.
            deadline: As for `run`; omitted if the answer may be known without a worker.

        Raises:
            QueueFull: As `run`.
        """
        self._admission.require_room(
            queue, self._workers.rate(queue), self._seconds(deadline), _client()
        )

    @contextmanager
    def place(self, queue: QueueName, count: int, deadline: float) -> Iterator[Place]:
        """Reserve room for images that are yet to be decoded, so that none is decoded in vain.

        Args:
            queue: Where they will go.
            count: How many.
            deadline: As for `run`, to which the place is passed.

        Raises:
            QueueFull: As `run`.
        """
        rate, seconds = self._workers.rate(queue), self._seconds(deadline)
        with ExitStack() as stack:
            permit = self._admission.permit(queue, count, rate, seconds, _client())
            yield Place(stack.enter_context(permit), stack.close)

    async def run(
        self,
        queue: QueueName,
        images: Sequence[Pixels],
        *,
        deadline: float,
        classes: Sequence[int] | None = None,
        note: bytes = b"",
        place: Place | None = None,
        kept: int = 0,
    ) -> list[Reply | OpsinError]:
        """The answer to each image, in order: a reply, or the error of that image alone.

        Args:
            queue: The version that answers, and the operation.
            images: Decoded images, each (height, width, 3) uint8 of the network's input size.
            deadline: `time.monotonic()` seconds by which all answers must have arrived.
            classes: For explanations, the class to explain in each image.
            note: For explanations, what is asked for; see `contracts.queue.explain_messages`.
            place: The room that was reserved for them; None to reserve it now.
            kept: Bytes that the request keeps besides the images until it is answered.

        Raises:
            QueueFull: There is no room; `retry_after` says when there will be.
            NoWorker: No live worker could do it.
            DeadlineExceeded: Not all answers came in time.
            Unavailable: Redis does not answer.
        """
        record = current_record()
        record.sent(queue)
        with span("infer", **attributes_of(queue, len(images))), ExitStack() as stack:
            stack.enter_context(self.waiting.held(_client(), kept + _bytes_of(images)))
            if place is None or not place.is_held:
                place = stack.enter_context(self.place(queue, len(images), deadline))
            checked = await self._infer(queue, images, deadline, classes, note, place=place)
        record.replied(checked)
        return checked

    async def run_together(
        self, images: Sequence[tuple[QueueName, Sequence[Pixels]]], *, deadline: float
    ) -> list[list[Reply | OpsinError] | OpsinError]:
        """The answers of several versions, which a worker computes in one pass if it can.

        Args:
            images: For each queue of `classify` or `embed`, the images. What is one object in
                several of them is one image.
            deadline: As for `run`.

        Returns:
            For each queue, what `run` would have returned or raised.

        Raises:
            QueueFull: Too many images wait in this process.
        """
        answers: _Answers = {}
        pushes: list[Push] = []
        slow: list[Push] = []
        with span("infer", opsin__models=len(images)), ExitStack() as permits:
            size = _bytes_of([image for _, own in images for image in own])
            permits.enter_context(self.waiting.held(_client(), size))
            seconds, origin = deadline - time.monotonic(), self._origin()
            image_ids: dict[int, bytes] = {}
            for place, (queue, own) in enumerate(images):
                rate, usable = self._workers.rate(queue), self._seconds(deadline)
                permit = self._admission.permit(queue, len(own), rate, usable, _client())
                try:
                    may_exceed = permits.enter_context(permit)
                except QueueFull as error:
                    answers[queue] = error
                    continue
                items = [
                    replace(
                        self._item(image, seconds, TOP_CLASS, b"", origin),
                        id=image_ids.setdefault(id(image), random_bytes(IMAGE_ID_LENGTH))
                        + place.to_bytes(ID_LENGTH - IMAGE_ID_LENGTH, "little"),
                    )
                    for image in own
                ]
                group, shared = self._workers.group(queue), self._workers.read_shared_pixels
                push = Push(queue, items, may_exceed, group, shared)
                (slow if self._admission.alternates(queue, rate) else pushes).append(push)
            try:
                parts = [self._answers_to(pushes, deadline)]
                parts += [self._answers_in_turns(push, deadline) for push in slow]
                for part in await asyncio.gather(*parts):
                    answers |= part
            finally:
                self._abandoned.leave(
                    [item for push in pushes + slow for item in push.items], seconds
                )
        return [answers[queue] for queue, _ in images]

    async def _answers_in_turns(self, push: Push, deadline: float) -> _Answers:
        """The answers of one queue in which clients take turns, or why there are none."""
        try:
            replies = await self._run_in_turns(
                push.queue, push.items, deadline, admitted=push.admitted
            )
        except TimeoutError:
            return {push.queue: self._too_late(push.queue)}
        except OpsinError as error:
            return {push.queue: error}
        return {push.queue: [_checked(reply, push.queue.version) for reply in replies]}

    async def _answers_to(self, pushes: Sequence[Push], deadline: float) -> _Answers:
        """Push items to several queues at once and await their replies, or why there are none."""
        if not pushes:
            return {}
        futures = {
            push.queue: [self._replies.expect(item, push.queue) for item in push.items]
            for push in pushes
        }
        try:
            async with asyncio.timeout_at(_loop_time(deadline)):
                seconds = deadline - time.monotonic()
                answers = await self._completed(self._push_together(pushes, seconds))
        except TimeoutError:
            return {push.queue: self._too_late(push.queue) for push in pushes}
        except OpsinError as error:
            return {push.queue: error for push in pushes}
        waiting = [one for queue in futures.keys() - answers.keys() for one in futures[queue]]
        if waiting:
            await asyncio.wait(waiting, timeout=deadline - time.monotonic())
        for queue in futures.keys() - answers.keys():
            done = all(future.done() for future in futures[queue])
            answers[queue] = (
                [_checked(future.result(), queue.version) for future in futures[queue]]
                if done
                else self._too_late(queue)
            )
        return answers

    async def _push_together(self, pushes: Sequence[Push], seconds: float) -> _Answers:
        """Push to several queues; return the errors of those that had no room."""
        items = [item for push in pushes for item in push.items]
        with self._abandoned.pushing(items) as refused:
            with redis_required():
                results = await self._queues.push_together(pushes, seconds=seconds)
            for push, result in zip(pushes, results, strict=True):
                if not result.accepted:
                    refused |= {item.id for item in push.items}
        errors: _Answers = {}
        for push, result in zip(pushes, results, strict=True):
            if result.must_schedule:
                await self._tasks.send(push.queue, push.group)
            if not result.accepted:
                errors[push.queue] = queue_full(result.depth, self._workers.rate(push.queue))
        return errors

    async def _infer(
        self,
        queue: QueueName,
        images: Sequence[Pixels],
        deadline: float,
        classes: Sequence[int] | None,
        note: bytes,
        *,
        place: Place,
    ) -> list[Reply | OpsinError]:
        """As `run`."""
        seconds = deadline - time.monotonic()
        origin = self._origin()
        items = [
            self._item(image, seconds, class_index, note, origin)
            for image, class_index in zip(images, classes or [TOP_CLASS] * len(images), strict=True)
        ]
        alternates = self._admission.alternates(queue, self._workers.rate(queue))
        run = self._run_in_turns if alternates else self._run_slice
        try:
            replies = await run(queue, items, deadline, admitted=place.may_exceed)
        except TimeoutError:
            raise self._too_late(queue) from None
        finally:
            self._abandoned.leave(items, seconds)
        return [_checked(reply, queue.version) for reply in replies]

    async def _run_in_turns(
        self, queue: QueueName, items: Sequence[Item], deadline: float, *, admitted: bool
    ) -> list[Reply]:
        """As `_run_slice`, but so that other clients' items come in between."""
        replies: list[Reply] = []
        while rest := items[len(replies) :]:
            size = slice_size(self._workers.rate(queue))
            places = size * (max(1, len(self._workers.workers)) + 1)  # so that no worker idles
            now, admitted = rest[:size], admitted or bool(replies)
            async with AsyncExitStack() as stack:
                turn = self._turns.turn(queue, _client(), len(now), places)
                async with asyncio.timeout_at(_loop_time(deadline)):
                    await stack.enter_async_context(turn)
                replies += await self._run_slice(queue, now, deadline, admitted=admitted)
        return replies

    async def _run_slice(
        self, queue: QueueName, items: Sequence[Item], deadline: float, *, admitted: bool
    ) -> list[Reply]:
        """Push items and await their replies.

        Args:
            admitted: Whether the queue's limit does not apply, as they were admitted otherwise.

        Raises:
            TimeoutError: Not all answers came in time.
            OpsinError: As `run`.
        """
        futures = [self._replies.expect(item, queue) for item in items]
        async with asyncio.timeout_at(_loop_time(deadline)):
            seconds = deadline - time.monotonic()
            await self._completed(self._push(queue, items, seconds, admitted=admitted))
        # Outside the timeout, because redis-py may swallow one that ends during the push; see
        # `PeriodicTask`.
        if (await asyncio.wait(futures, timeout=deadline - time.monotonic()))[1]:
            raise TimeoutError
        return [future.result() for future in futures]

    def _seconds(self, deadline: float) -> float:
        """The computing time of all live workers until then: a rate is that of one worker."""
        return (deadline - time.monotonic()) * max(1, len(self._workers.workers))

    def _origin(self) -> Origin:
        """The request, for the workers; none while a worker of an earlier release is alive.

        That would take the images of each request for another kind of work.
        """
        if not self._workers.reads_origins:
            return NO_ORIGIN
        origin, part = current_origin(), current_span()
        return origin if part is None else Origin(origin.request_id, part.context)

    def _item(
        self, image: Pixels, seconds: float, class_index: int, note: bytes, origin: Origin
    ) -> Item:
        now = self._workers.clock()
        return Item(
            random_bytes(ID_LENGTH),
            now + seconds,
            now,
            self._replies.key,
            image,
            class_index=class_index,
            note=note,
            origin=origin,
        )

    async def _completed(self, pushing: Coroutine[Any, Any, T]) -> T:
        """Await what must not end halfway: the push that marks a queue has to send its task.

        A client that hangs up, or a deadline, ends only the wait. Otherwise no worker would learn
        of the queue until the mark expires. If many pushes are left over, Redis is silent; then
        they are cancelled as well, as each holds its images.
        """
        task = self._pushing.start(pushing)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if len(self._pushing) > _MAX_PUSHING:
                self._pushing.cancel(task)
            raise

    async def _push(
        self, queue: QueueName, items: Sequence[Item], seconds: float, *, admitted: bool
    ) -> None:
        group = self._workers.group(queue)
        with self._abandoned.pushing(items) as refused:
            with redis_required():
                push = await self._queues.push(
                    queue,
                    items,
                    seconds=seconds,
                    admitted=admitted,
                    group=group,
                    shared=self._workers.read_shared_pixels,
                )
            if not push.accepted:
                refused |= {item.id for item in items}
        if push.must_schedule:
            await self._tasks.send(queue, group)
        if not push.accepted:
            raise queue_full(push.depth, self._workers.rate(queue))

    def _too_late(self, queue: QueueName) -> OpsinError:
        if not self._workers.workers:
            return NoWorker(
                "The worker was lost and no other started in time. Retry.", retry_after=5
            )
        return DeadlineExceeded(
            f"'{queue.model}' did not answer in time. Retry, or allow more in X-Timeout-Ms."
        )


def _checked(reply: Reply, version: int) -> Reply | OpsinError:
    """The reply or its error; never a reply made by another version."""
    if reply.error:
        return error_of(*reply.error)
    if reply.version != version:
        log.error("wrong_version", wanted=version, answered=reply.version)
        return InternalError("A version other than the requested one answered. Retry.")
    return reply


def _client() -> str:
    return CALLER.get(NOBODY).client


def _bytes_of(images: Sequence[Pixels]) -> int:
    """An image that is asked about several times is in memory once."""
    return sum({id(image): image.nbytes for image in images}.values())


def _loop_time(deadline: float) -> float:
    """A monotonic deadline on the event loop's clock."""
    return asyncio.get_running_loop().time() + deadline - time.monotonic()
