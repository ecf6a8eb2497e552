"""Dispatcher, replies and recovery on a real Valkey; the tests act as the worker."""

import asyncio
import secrets
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest.mock import MagicMock

import numpy as np
import pytest
import redis
import redis.asyncio

from contracts.errors import NoWorker, QueueFull
from contracts.inference.inference import Operation
from contracts.queue import redis_keys
from contracts.queue.celery import ASYNC_REDIS_OPTIONS
from contracts.queue.heartbeat import WorkerBeat
from contracts.queue.messages import Item, Reply
from contracts.queue.redis_keys import QueueGroup, QueueName
from contracts.queue.shared_pixels import SharedPixels
from models.store.store import Store
from service.fair_budget import FairBudget
from service.inference.fair_pool import CALLER, Caller
from service.queue import dispatcher
from service.queue.admission import Admission, QueueLimits
from service.queue.client import QueueClient
from service.queue.dispatcher import BatchTaskSender, Dispatcher
from service.queue.recovery import Recovery
from service.queue.replies import Replies
from service.queue.workers import WorkerRegistry
from tests.reliability.faults import clock_environment, set_clock
from tests.valkey import RealValkey
from workers.inference.forwarding import TaskForwarder
from workers.inference.queue import WorkerQueues

QUEUE = QueueName("squeezenet", 1, "classify")
IMAGE = np.zeros((2, 2, 3), np.uint8)


@dataclass
class RecordedTasks:
    """Records the tasks that would have been sent."""

    queues: list[QueueName] = field(default_factory=list)
    groups: list[QueueGroup | None] = field(default_factory=list)
    busy_seconds: float = 0.0

    async def send(self, queue: QueueName, group: QueueGroup | None = None) -> None:
        await asyncio.sleep(self.busy_seconds)
        self.queues.append(queue)
        self.groups.append(group)


@dataclass
class Api:
    dispatcher: Dispatcher
    replies: Replies
    queues: QueueClient
    recovery: Recovery
    workers: WorkerRegistry
    client: redis.asyncio.Redis

    def request(self, seconds: float) -> "asyncio.Task[Any]":
        deadline = time.monotonic() + seconds
        return asyncio.create_task(self.dispatcher.run(QUEUE, [IMAGE], deadline=deadline))

    async def depth(self, queue: QueueName) -> int:
        return int(await self.client.llen(queue.key))

    async def queued(self) -> None:
        await until(lambda: self.depth(QUEUE))


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    deadline = time.monotonic() + 30
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@asynccontextmanager
async def api_on(valkey: RealValkey, pixels: SharedPixels | None = None) -> AsyncIterator[Api]:
    options: dict[str, Any] = dict(ASYNC_REDIS_OPTIONS)
    async with (
        redis.asyncio.Redis.from_url(valkey.url, **options) as client,
        redis.asyncio.Redis.from_url(valkey.url, **options) as blocking,
    ):
        queues = QueueClient(client, QueueLimits(8), pixels)
        tasks = cast(BatchTaskSender, RecordedTasks())
        workers = WorkerRegistry(client, ("squeezenet",), Store(Path("/nowhere")), pixels)
        await workers.refresh()
        replies = Replies(blocking, secrets.token_hex(4), pixels)
        replies.start()
        dispatcher = Dispatcher(queues, replies, tasks, Admission(QueueLimits(8)), workers)
        recovery = Recovery(queues, replies, tasks, workers)
        try:
            yield Api(dispatcher, replies, queues, recovery, workers, client)
        finally:
            # Before the connections are closed, which pushes that are left over still use.
            await dispatcher._pushing.ended()
            await replies.stop()


def run(valkey: RealValkey, use: Callable[[Api], Coroutine[Any, Any, None]]) -> None:
    async def body() -> None:
        async with api_on(valkey) as api:
            await use(api)

    asyncio.run(body())


def reply_to(client: redis.Redis, *items: Item, worker: str = "w1") -> None:
    replies = [(i, Reply(i.id, 1, 1, 0, 0, vector=np.ones(3, np.float32))) for i in items]
    WorkerQueues(client, worker).send_replies(replies, {QUEUE: 10})


@pytest.fixture
def worker_client(valkey: RealValkey) -> redis.Redis:
    return valkey.client()


def test_silent_redis_does_not_delay_the_answer(valkey: RealValkey) -> None:
    async def use(api: Api) -> None:
        process = valkey.process
        assert process
        process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(NoWorker):
                await api.request(0.5)
            assert time.monotonic() - began < 20
        finally:
            process.send_signal(signal.SIGCONT)

    run(valkey, use)


def test_item_of_a_cancelled_request_is_dropped(
    valkey: RealValkey, worker_client: redis.Redis
) -> None:
    async def use(api: Api) -> None:
        request = api.request(60)
        await api.queued()
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await until(lambda: api.client.keys(redis_keys.ABANDONED_PREFIX.decode() + "*"))
        assert WorkerQueues(worker_client, "w1").take(QUEUE, 4) == []
        assert not api.replies.pending

    run(valkey, use)


@pytest.mark.parametrize("hangs_up", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_images_that_were_never_queued_are_not_marked(
    valkey: RealValkey, worker_client: redis.Redis, *, hangs_up: bool, together: bool
) -> None:
    """No worker would find such a mark, which stays until the deadline."""

    async def use(api: Api) -> None:
        first = api.request(60)  # whoever has nothing in progress is admitted in any case
        await api.queued()
        worker_client.rpush(QUEUE.key, *[b"another"] * 7)
        if hangs_up:
            worker_client.client_pause(500)
        deadline = time.monotonic() + 60
        asked = (
            api.dispatcher.run_together([(QUEUE, [IMAGE])], deadline=deadline)
            if together
            else api.dispatcher.run(QUEUE, [IMAGE], deadline=deadline)
        )
        request = asyncio.create_task(asked)
        await asyncio.sleep(0.2)
        if hangs_up:
            request.cancel()
        (outcome,) = await asyncio.gather(request, return_exceptions=True)
        refusal = outcome[0] if together and not hangs_up else outcome
        assert isinstance(refusal, asyncio.CancelledError if hangs_up else QueueFull)
        await api.dispatcher._pushing.ended()
        await asyncio.sleep(0.1)
        assert await api.depth(QUEUE) == 8
        assert await api.client.keys(redis_keys.ABANDONED_PREFIX.decode() + "*") == []
        assert len(api.replies.pending) == 1
        first.cancel()

    run(valkey, use)


def test_an_image_whose_client_leaves_while_it_is_pushed_is_marked(
    valkey: RealValkey, worker_client: redis.Redis
) -> None:
    async def use(api: Api) -> None:
        assert await api.depth(QUEUE) == 0
        worker_client.client_pause(500)
        request = api.request(60)
        await asyncio.sleep(0.2)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await until(lambda: api.client.keys(redis_keys.ABANDONED_PREFIX.decode() + "*"))
        assert WorkerQueues(worker_client, "w1").take(QUEUE, 4) == []
        assert not api.dispatcher._abandoned._left

    run(valkey, use)


@pytest.mark.parametrize("ends", ["hangs up", "is late"])
@pytest.mark.parametrize("waits_for", ["Redis", "the publisher"])
@pytest.mark.parametrize("together", [False, True])
def test_a_request_that_ends_while_it_pushes_sends_its_task(
    valkey: RealValkey, worker_client: redis.Redis, ends: str, waits_for: str, *, together: bool
) -> None:
    """It has marked the queue as scheduled, so no other request sends its task."""

    async def use(api: Api) -> None:
        tasks = cast(RecordedTasks, api.dispatcher._tasks)
        assert await api.depth(QUEUE) == 0  # so that there is a connection
        if waits_for == "Redis":
            worker_client.client_pause(500)
        else:
            tasks.busy_seconds = 0.5
        deadline = time.monotonic() + (60 if ends == "hangs up" else 0.2)
        asked = (
            api.dispatcher.run_together([(QUEUE, [IMAGE])], deadline=deadline)
            if together
            else api.dispatcher.run(QUEUE, [IMAGE], deadline=deadline)
        )
        request = asyncio.create_task(asked)
        await asyncio.sleep(0.2)
        if ends == "hangs up":
            request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        assert tasks.queues == []
        await until(lambda: asyncio.sleep(0, tasks.queues == [QUEUE]))

    run(valkey, use)


def test_pushes_that_are_left_over_are_few(
    valkey: RealValkey, worker_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "_MAX_PUSHING", 2)

    async def use(api: Api) -> None:
        assert await api.depth(QUEUE) == 0
        worker_client.client_pause(2000)
        requests = [api.request(0.2) for _ in range(6)]
        await asyncio.gather(*requests, return_exceptions=True)
        await asyncio.sleep(0)
        assert len(api.dispatcher._pushing) == 2
        worker_client.client_unpause()

    run(valkey, use)


def test_images_in_a_reserved_place_count_once(
    valkey: RealValkey, worker_client: redis.Redis
) -> None:
    async def use(api: Api) -> None:
        deadline = time.monotonic() + 60
        with api.dispatcher.place(QUEUE, 8, deadline) as place:
            with pytest.raises(QueueFull):
                await api.request(60)
            with pytest.raises(QueueFull):
                api.dispatcher.require_room(QUEUE, deadline)
            asked = asyncio.create_task(
                api.dispatcher.run(QUEUE, [IMAGE] * 8, deadline=deadline, place=place)
            )
            await api.queued()
            reply_to(worker_client, *WorkerQueues(worker_client, "w1").take(QUEUE, 8))
            assert len(await asked) == 8
        api.dispatcher.require_room(QUEUE, deadline)

    run(valkey, use)


def test_what_waits_is_bounded_in_bytes_too(
    valkey: RealValkey, worker_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of a queue counts images, whatever their size, and each queue has its own."""

    async def use(api: Api) -> None:
        held = FairBudget(3 * IMAGE.nbytes, "Too many images wait.")
        monkeypatch.setattr(api.dispatcher, "waiting", held)
        deadline = time.monotonic() + 60
        first = api.request(60)
        await api.queued()
        for run in (
            api.dispatcher.run(QUEUE, [IMAGE], deadline=deadline, kept=2 * IMAGE.nbytes),
            api.dispatcher.run_together([(QUEUE, [IMAGE, IMAGE.copy()])], deadline=deadline),
        ):
            with pytest.raises(QueueFull, match="Too many images wait"):
                await run
        assert await api.depth(QUEUE) == 1
        reply_to(worker_client, *WorkerQueues(worker_client, "w1").take(QUEUE, 8))
        await first
        held.require("", 3 * IMAGE.nbytes)

    run(valkey, use)


def test_items_are_pushed_again_after_redis_was_wiped(
    valkey: RealValkey, worker_client: redis.Redis
) -> None:
    async def use(api: Api) -> None:
        await api.recovery.run_once()
        request = api.request(60)
        await api.queued()
        worker_client.flushall()
        await api.recovery.run_once()
        reply_to(worker_client, *WorkerQueues(worker_client, "w1").take(QUEUE, 4))
        assert len(await request) == 1

    run(valkey, use)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler, to set a clock forward")
def test_items_are_pushed_again_after_the_clock_of_redis_was_set_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a day: then all queues have expired at once."""
    clock = tmp_path / "clock"
    set_clock(clock, 0)
    with monkeypatch.context() as patched:
        for name, value in clock_environment(clock).items():
            patched.setenv(name, value)
        valkey = RealValkey()
        valkey.start()

    async def use(api: Api) -> None:
        async def is_lost() -> bool:
            return await api.depth(QUEUE) == 0

        worker_client = valkey.client()
        send_heartbeat(worker_client, "w1")
        worker_client.expire(redis_keys.heartbeat_key("w1"), 60)
        await api.workers.refresh()
        await api.recovery.run_once()
        request = api.request(60)
        await api.queued()
        set_clock(clock, 86_400)
        await until(is_lost)
        await api.workers.refresh()
        assert [one.id for one in api.workers.workers] == ["w1"], "it has not had the time yet"
        await api.recovery.run_once()
        (item,) = WorkerQueues(worker_client, "w1").take(QUEUE, 4)
        assert item.deadline - time.time() == pytest.approx(86_460, abs=30)
        reply_to(worker_client, item)
        assert len(await request) == 1
        await api.recovery.run_once()
        assert await api.depth(QUEUE) == 0, "once is enough"
        api.workers._kept_until = time.monotonic() - 1
        await api.workers.refresh()
        assert api.workers.workers == ()

    try:
        run(valkey, use)
    finally:
        valkey.close()


def test_server_epoch_changes_on_restart(valkey: RealValkey) -> None:
    async def use(api: Api) -> None:
        before = await api.queues.server_epoch()
        assert await api.queues.server_epoch() == before
        valkey.kill()
        valkey.start()
        await asyncio.gather(api.client.ping(), return_exceptions=True)  # its connection is gone
        assert await api.queues.server_epoch() != before

    run(valkey, use)


def test_items_of_a_lost_worker_are_queued_again(
    valkey: RealValkey, worker_client: redis.Redis
) -> None:
    async def use(api: Api) -> None:
        send_heartbeat(worker_client, "w1")
        await api.workers.refresh()
        await api.recovery.run_once()
        request = api.request(60)
        await api.queued()
        assert len(WorkerQueues(worker_client, "w1").take(QUEUE, 4)) == 1
        worker_client.delete(redis_keys.heartbeat_key("w1"))
        await api.workers.refresh()
        await api.recovery.run_once()
        again = WorkerQueues(worker_client, "w2").take(QUEUE, 4)
        assert [item.attempt for item in again] == [2]
        assert worker_client.scard(redis_keys.claims("w1")) == 0
        reply_to(worker_client, *again, worker="w2")
        assert len(await request) == 1

    run(valkey, use)


def test_attempts_of_a_worker_that_returns_do_not_count(
    valkey: RealValkey, worker_client: redis.Redis
) -> None:
    async def use(api: Api) -> None:
        request = api.request(60)
        for _ in range(3):  # more often than an image may be lost
            send_heartbeat(worker_client, "w1")
            await api.workers.refresh()
            await api.recovery.run_once()
            await api.queued()
            assert len(WorkerQueues(worker_client, "w1").take(QUEUE, 4)) == 1
            worker_client.delete(redis_keys.heartbeat_key("w1"))
            await api.workers.refresh()
            await api.recovery.run_once()
        send_heartbeat(worker_client, "w1")
        await api.workers.refresh()
        await api.recovery.run_once()
        reply_to(worker_client, *WorkerQueues(worker_client, "w1").take(QUEUE, 4))
        assert isinstance((await request)[0], Reply)

    run(valkey, use)


def test_abandoned_item_is_not_queued_again(valkey: RealValkey, worker_client: redis.Redis) -> None:
    """Otherwise it would stay among the pending items for as long as the process lives."""

    async def use(api: Api) -> None:
        request = api.request(60)
        await api.queued()
        (pending,) = api.replies.pending.values()
        WorkerQueues(worker_client, "w1").take(QUEUE, 4)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await api.recovery._retry(pending)
        assert not api.replies.pending
        assert await api.depth(QUEUE) == 0

    run(valkey, use)


def send_heartbeat(client: redis.Redis, worker: str) -> None:
    heartbeat = WorkerBeat(id=worker, host="h", pid=1, release="0", started_at=0, beat_at=0)
    client.sadd(redis_keys.WORKERS, worker)
    client.set(redis_keys.heartbeat_key(worker), heartbeat.model_dump_json())


def test_a_batch_task_does_not_expire_by_the_clock_of_another_host(
    worker_client: redis.Redis,
) -> None:
    app = MagicMock()
    sender = BatchTaskSender(app)
    asyncio.run(sender.send(QUEUE))
    sender.close()
    TaskForwarder(app, worker_client, "w1").schedule(QUEUE)
    assert app.send_task.call_count == 2
    assert not any("expires" in call.kwargs for call in app.send_task.call_args_list)


@pytest.mark.parametrize("ahead", [4, 31, -31, 65])
def test_a_deadline_is_by_the_clock_of_redis(
    valkey: RealValkey, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    real = time.time

    async def use(api: Api) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + ahead)
        asked = real()
        request = api.request(60)
        await api.queued()
        (pending,) = api.replies.pending.values()
        assert pending.item.deadline == pytest.approx(asked + 60, abs=3)
        assert pending.item.enqueued == pytest.approx(asked, abs=3)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)

    run(valkey, use)


@pytest.mark.parametrize(
    ("operation", "rate", "models"),
    [("explain", None, 1), ("classify", 3.0, 1), ("classify", 3.0, 2)],
    ids=["operation", "network", "several models"],
)
def test_a_client_with_much_slow_work_keeps_no_other_waiting(
    valkey: RealValkey,
    worker_client: redis.Redis,
    operation: Operation,
    rate: float | None,
    models: int,
) -> None:
    slow, order = QueueName("squeezenet", 1, operation), list[int]()
    fast = QueueName("vgg16", 1, operation)
    worker = WorkerQueues(worker_client, "w1")

    async def use(api: Api) -> None:
        deadline = time.monotonic() + 60
        if rate is not None:
            api.workers._rates[slow] = rate

        async def request(client: str, count: int, marker: int) -> list[Any]:
            CALLER.set(Caller(client, marker))
            images = [np.full((2, 2, 3), marker, np.uint8) for _ in range(count)]
            if models == 1:
                return await api.dispatcher.run(slow, images, deadline=deadline)
            asked = [(slow, images), (fast, images)]
            first, second = await api.dispatcher.run_together(asked, deadline=deadline)
            assert isinstance(first, list)
            assert isinstance(second, list)
            return first

        many = asyncio.create_task(request("many", 64, 1))
        await until(lambda: api.depth(slow))
        other = asyncio.create_task(request("other", 1, 2))
        await asyncio.sleep(0)
        while not many.done() and time.monotonic() < deadline:
            for item in await asyncio.to_thread(worker.take, slow, 1):
                order.append(int(item.pixels[0, 0, 0]))
                await asyncio.to_thread(worker.send_replies, [(item, _reply_to(item))], {slow: 1.0})
            for item in await asyncio.to_thread(worker.take, fast, 64) if models > 1 else []:
                await asyncio.to_thread(worker.send_replies, [(item, _reply_to(item))], {fast: 1.0})
        assert len(await many) == 64
        assert len(await other) == 1

    run(valkey, use)
    assert order.index(2) <= 8  # of 65


def _reply_to(item: Item) -> Reply:
    return Reply(item.id, 1, 1, 0, 0, vector=np.ones(3, np.float32))
