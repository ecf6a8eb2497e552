"""Which queues are a group, and what the API does with them, on a real Valkey."""

import asyncio
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, cast
from unittest.mock import MagicMock

import numpy as np
import pytest
import redis
import redis.asyncio

from contracts.errors import DeadlineExceeded, QueueFull
from contracts.inference.inference import Operation
from contracts.queue import redis_keys
from contracts.queue.celery import ASYNC_REDIS_OPTIONS
from contracts.queue.heartbeat import HeldModel, WorkerBeat
from contracts.queue.messages import Reply
from contracts.queue.redis_keys import QueueGroup, QueueName
from models.store.store import Store
from service.queue.admission import Admission, QueueLimits
from service.queue.client import QueueClient
from service.queue.dispatcher import BatchTaskSender, Dispatcher
from service.queue.groups import Groups
from service.queue.recovery import Recovery
from service.queue.replies import Replies
from service.queue.workers import WorkerRegistry
from tests.valkey import RealValkey
from tests.workers.inference.heads import Head, MeanBase
from workers.inference.batcher import Batcher
from workers.inference.loaded_models import LoadedModels
from workers.inference.queue import WorkerQueues

GROUP = QueueGroup(f"inference.trained/{'ab' * 16}")
CATS, DOGS = (QueueName(name, 1, "classify") for name in ("cats", "dogs"))
IMAGE = np.full((2, 2, 3), 10, np.uint8)


def held(
    name: str,
    group: str | None = GROUP.name,
    operations: tuple[Operation, ...] = ("classify", "embed", "heatmap"),
) -> HeldModel:
    return HeldModel(name=name, version=1, state="ready", operations=operations, group=group)


def beat(worker: str, *models: HeldModel, reads_groups: bool = True) -> WorkerBeat:
    return WorkerBeat(
        id=worker,
        host="h",
        pid=1,
        release="0",
        started_at=0,
        beat_at=0,
        models=models,
        reads_groups=reads_groups,
    )


def test_a_group_is_what_all_workers_announce() -> None:
    groups = Groups(
        [beat("w1", held("cats"), held("dogs")), beat("w2", held("cats"), held("dogs"))]
    )
    assert groups.of(CATS) == groups.of(DOGS) == GROUP
    assert groups.of(QueueName("cats", 1, "embed")) == GROUP
    assert groups.of(QueueName("cats", 1, "heatmap")) is None
    assert groups.of(QueueName("cats", 2, "classify")) is None


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(beat("w2", held("cats"), held("dogs", None)), id="another runtime"),
        pytest.param(beat("w2", held("cats"), held("dogs", "other/cd")), id="another base"),
        pytest.param(beat("w2", held("cats")), id="not loaded yet"),
        pytest.param(beat("w2", held("cats"), held("dogs", operations=())), id="not working"),
    ],
)
def test_a_version_that_some_workers_lack_is_in_no_group(other: WorkerBeat) -> None:
    groups = Groups([beat("w1", held("cats"), held("dogs")), other])
    assert groups.of(DOGS) is None
    assert groups.of(CATS) == GROUP


def test_there_are_no_groups_beside_a_worker_of_the_release_before() -> None:
    worker = beat("w1", held("cats"))
    before = beat("w2", reads_groups=False)
    assert Groups([worker, before]).of(CATS) is None
    assert Groups([worker], readable=False).of(CATS) is None
    assert Groups([worker, beat("w2")]).of(CATS) == GROUP


@dataclass
class RecordedTasks:
    """Records the tasks that would have been sent."""

    sent: list[tuple[QueueName, QueueGroup | None]] = field(default_factory=list)

    async def send(self, queue: QueueName, group: QueueGroup | None = None) -> None:
        self.sent.append((queue, group))


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    deadline = time.monotonic() + 30
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


class Api:
    """The API's end of the queues."""

    def __init__(self, client: redis.asyncio.Redis, blocking: redis.asyncio.Redis) -> None:
        self.tasks = RecordedTasks()
        sender, limits = cast(BatchTaskSender, self.tasks), QueueLimits(2)
        self.client = client
        self.queues = QueueClient(client, limits)
        self.workers = WorkerRegistry(client, ("squeezenet",), Store(Path("/nowhere")))
        self.replies = Replies(blocking, secrets.token_hex(4))
        self.dispatcher = Dispatcher(
            self.queues, self.replies, sender, Admission(limits), self.workers
        )
        self.recovery = Recovery(self.queues, self.replies, sender, self.workers)

    def request(self, queue: QueueName, images: int = 1) -> "asyncio.Task[Any]":
        deadline = time.monotonic() + 60
        return asyncio.create_task(self.dispatcher.run(queue, [IMAGE] * images, deadline=deadline))

    async def depth(self, queue: QueueName) -> int:
        return int(await self.client.llen(queue.key))

    async def queued(self, *queues: QueueName) -> None:
        """Wait until images are in each of the queues and those who pushed them know it."""
        for queue in queues:
            await until(partial(self.depth, queue))
        while self.queues._pipelined._waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)

    async def see(self, *beats: WorkerBeat) -> None:
        """Let these be the live workers."""
        known = await self.client.smembers(redis_keys.WORKERS)
        for worker_id in known:
            await self.client.delete(redis_keys.heartbeat_key(worker_id.decode()))
        for one in beats:
            await self.client.sadd(redis_keys.WORKERS, one.id)
            await self.client.set(redis_keys.heartbeat_key(one.id), one.model_dump_json())
        await self.workers.refresh()
        await self.recovery.run_once()


@asynccontextmanager
async def api_on(valkey: RealValkey) -> AsyncIterator[Api]:
    options: dict[str, Any] = dict(ASYNC_REDIS_OPTIONS)
    async with (
        redis.asyncio.Redis.from_url(valkey.url, **options) as client,
        redis.asyncio.Redis.from_url(valkey.url, **options) as blocking,
    ):
        api = Api(client, blocking)
        api.replies.start()
        try:
            yield api
        finally:
            await api.replies.stop()


def run(valkey: RealValkey, use: Callable[[Api], Coroutine[Any, Any, None]]) -> None:
    async def body() -> None:
        async with api_on(valkey) as api:
            await use(api)

    asyncio.run(body())


def batcher_of(valkey: RealValkey, worker_id: str, base: MeanBase) -> Batcher:
    client, models = valkey.client(), LoadedModels()
    for plus, name in enumerate(("cats", "dogs")):
        models.add(name, Head(base, plus))
    return Batcher(
        WorkerQueues(client, worker_id, ["inference.trained"]),
        models,
        MagicMock(),
        MagicMock(),
        {},
        batch_limit=16,
        linger_seconds=0,
        stopping=Event(),
        clock=time.time,
    )


def answers(*replies: list[Any]) -> list[float]:
    return [float(reply.vector[0]) for several in replies for reply in several]


def test_requests_for_two_models_are_answered_by_one_batch(valkey: RealValkey) -> None:
    base = MeanBase()

    async def use(api: Api) -> None:
        await api.see(beat("w1", held("cats"), held("dogs")))
        cats, dogs = api.request(CATS), api.request(DOGS, 2)
        await api.queued(CATS, DOGS)
        assert [group for _, group in api.tasks.sent] == [GROUP], "one task"
        await asyncio.to_thread(batcher_of(valkey, "w1", base).run, CATS, GROUP)
        assert answers(await cats, await dogs) == [10, 11, 11]
        assert base.batches == [3]

    run(valkey, use)


def test_a_mixed_batch_of_a_lost_worker_is_answered_by_another(valkey: RealValkey) -> None:
    base = MeanBase()
    models = (held("cats"), held("dogs"))

    async def use(api: Api) -> None:
        await api.see(beat("w1", *models), beat("w2", *models))
        cats, dogs = api.request(CATS), api.request(DOGS, 2)
        await api.queued(CATS, DOGS)
        lost = WorkerQueues(valkey.client(), "w1")
        assert len(lost.take_unless(GROUP, 16) or ()) == 3
        lost.clear_scheduled(GROUP, "inference.trained")
        api.tasks.sent.clear()
        await api.see(beat("w2", *models))
        assert [group for _, group in api.tasks.sent] == [GROUP]
        await asyncio.to_thread(batcher_of(valkey, "w2", base).run, CATS, GROUP)
        assert answers(await cats, await dogs) == [10, 11, 11]
        assert not await api.client.exists(redis_keys.claims("w1"))

    run(valkey, use)


def test_recovery_finds_the_images_of_a_group_whose_names_were_lost(valkey: RealValkey) -> None:
    base = MeanBase()

    async def use(api: Api) -> None:
        worker = beat("w1", held("cats"), held("dogs"))
        await api.see(worker)
        cats, dogs = api.request(CATS), api.request(DOGS)
        await api.queued(CATS, DOGS)
        await api.client.delete(GROUP.ready_key, GROUP.scheduled_key)
        api.tasks.sent.clear()
        await api.recovery.run_once()
        assert [group for _, group in api.tasks.sent] == [GROUP], "one task for both"
        await asyncio.to_thread(batcher_of(valkey, "w1", base).run, CATS, GROUP)
        assert answers(await cats, await dogs) == [10, 11]

    run(valkey, use)


def test_images_of_a_group_are_found_when_a_worker_without_groups_starts(
    valkey: RealValkey,
) -> None:
    """The task for the group may be the one that is lost."""
    base = MeanBase()

    async def use(api: Api) -> None:
        await api.see(beat("w1", held("cats"), held("dogs")))
        cats = api.request(CATS)
        await api.queued(CATS)
        api.tasks.sent.clear()
        await api.see(beat("w2", held("cats", None), reads_groups=False))
        assert api.tasks.sent == [(CATS, None)]
        await asyncio.to_thread(batcher_of(valkey, "w2", base).run, CATS)
        assert answers(await cats) == [10]
        dogs = api.request(DOGS)
        await api.queued(DOGS)
        assert api.tasks.sent == [(CATS, None), (DOGS, None)]
        dogs.cancel()
        await asyncio.gather(dogs, return_exceptions=True)

    run(valkey, use)


def test_the_queues_of_a_group_are_admitted_separately(valkey: RealValkey) -> None:
    async def use(api: Api) -> None:
        await api.see(beat("w1", held("cats"), held("dogs")))
        full = api.request(CATS, 2)
        await api.queued(CATS)
        with pytest.raises(QueueFull):
            await api.request(CATS)
        other = api.request(DOGS, 2)
        await api.queued(DOGS)
        for request in (full, other):
            request.cancel()
        await asyncio.gather(full, other, return_exceptions=True)

    run(valkey, use)


def test_images_of_a_client_that_left_are_not_computed(valkey: RealValkey) -> None:
    base = MeanBase()

    async def use(api: Api) -> None:
        await api.see(beat("w1", held("cats"), held("dogs")))
        leaves, stays = api.request(CATS), api.request(DOGS)
        await api.queued(CATS, DOGS)
        leaves.cancel()
        await asyncio.gather(leaves, return_exceptions=True)
        await until(lambda: api.client.keys(redis_keys.ABANDONED_PREFIX.decode() + "*"))
        await asyncio.to_thread(batcher_of(valkey, "w1", base).run, CATS, GROUP)
        assert isinstance((await stays)[0], Reply)
        assert base.batches == [1]

    run(valkey, use)


def together(api: Api, images: int = 1, seconds: float = 60) -> "asyncio.Task[Any]":
    """A request for both models, about the same images."""
    pixels = [IMAGE + number for number in range(images)]
    asked = [(CATS, pixels), (DOGS, pixels)]
    deadline = time.monotonic() + seconds
    return asyncio.create_task(api.dispatcher.run_together(asked, deadline=deadline))


def test_several_models_are_asked_in_one_pass(valkey: RealValkey) -> None:
    base = MeanBase()

    async def use(api: Api) -> None:
        await api.see(beat("w1", held("cats"), held("dogs")))
        request = together(api, 2)
        await api.queued(CATS, DOGS)
        assert [group for _, group in api.tasks.sent] == [GROUP]
        await asyncio.to_thread(batcher_of(valkey, "w1", base).run, CATS, GROUP)
        cats, dogs = await request
        assert answers(cats, dogs) == [10, 11, 11, 12]
        assert base.batches == [2], "each image once"
        assert not api.replies.pending

    run(valkey, use)


def test_a_full_queue_fails_its_own_model_only(valkey: RealValkey) -> None:
    base = MeanBase()

    async def use(api: Api) -> None:
        await api.see(beat("w1", held("cats"), held("dogs")))
        full = api.request(CATS, 2)
        await api.queued(CATS)
        request = together(api)
        await api.queued(DOGS)
        await asyncio.to_thread(batcher_of(valkey, "w1", base).run, CATS, GROUP)
        cats, dogs = await request
        assert isinstance(cats, QueueFull)
        assert answers(dogs) == [11]
        assert len(await full) == 2

    run(valkey, use)


def test_a_queue_that_others_filled_fails_its_own_model_only(valkey: RealValkey) -> None:
    """Those of another API process, which only Redis knows of."""

    async def use(api: Api) -> None:
        await api.see(beat("w1", held("cats"), held("dogs")))
        before = api.request(CATS)
        await api.queued(CATS)
        await api.client.rpush(CATS.key, b"1", b"2", b"3")
        cats, dogs = await together(api, seconds=3)
        assert isinstance(cats, QueueFull)
        assert isinstance(dogs, DeadlineExceeded), "no worker took it"
        assert len(api.replies.pending) == 1
        before.cancel()
        await asyncio.gather(before, return_exceptions=True)

    run(valkey, use)


def test_a_client_without_any_image_has_a_place_beyond_what_other_processes_filled(
    valkey: RealValkey,
) -> None:
    async def use(api: Api) -> None:
        await api.see(beat("w1", held("cats"), held("dogs")))
        await api.client.rpush(CATS.key, b"1", b"2", b"3")
        first = api.request(CATS)
        await until(lambda: _has(api, CATS, 4))
        with pytest.raises(QueueFull):
            await api.request(CATS)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

    run(valkey, use)


async def _has(api: Api, queue: QueueName, depth: int) -> bool:
    return await api.depth(queue) == depth


@pytest.mark.parametrize("by", ["recovery", "refused push"])
def test_a_full_queue_that_nobody_waits_for_gets_a_task(valkey: RealValkey, by: str) -> None:
    """Its task was lost with a worker, or with the request that was to send it."""

    async def use(api: Api) -> None:
        if by == "recovery":
            await api.client.rpush(CATS.key, b"1", b"2", b"3")
        await api.see(beat("w1", held("cats"), held("dogs")))
        if by == "refused push":
            first = api.request(CATS)
            await api.queued(CATS)
            await api.client.rpush(CATS.key, b"2", b"3")
            await api.client.delete(GROUP.scheduled_key, GROUP.ready_key)
            api.tasks.sent.clear()
            with pytest.raises(QueueFull):
                await api.request(CATS)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        assert [group for _, group in api.tasks.sent] == [GROUP]
        assert await api.client.zscore(GROUP.ready_key, CATS.key) is not None

    run(valkey, use)


def test_a_client_of_several_models_that_leaves_is_forgotten(valkey: RealValkey) -> None:
    base = MeanBase()

    async def use(api: Api) -> None:
        await api.see(beat("w1", held("cats"), held("dogs")))
        request = together(api)
        await api.queued(CATS, DOGS)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await until(lambda: api.client.keys(redis_keys.ABANDONED_PREFIX.decode() + "*"))
        assert not api.replies.pending
        assert await asyncio.to_thread(batcher_of(valkey, "w1", base).run, CATS, GROUP) == 0
        assert base.batches == []

    run(valkey, use)


@pytest.mark.parametrize("ending", ["deadline", "hang-up"])
def test_requests_for_several_models_that_end_early_keep_no_connection(
    valkey: RealValkey, ending: str
) -> None:
    """The pool has few, and the process could not be reached any more."""

    async def use(api: Api) -> None:
        await api.see(beat("w1", held("cats"), held("dogs")))
        pool: Any = api.client.connection_pool
        process = valkey.process
        assert process
        process.send_signal(signal.SIGSTOP)
        try:
            asked = [together(api, seconds=0.5) for _ in range(10)]
            await asyncio.sleep(0.3)
            if ending == "hang-up":
                for request in asked:
                    request.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        finally:
            process.send_signal(signal.SIGCONT)
        await api.client.ping()

        async def is_free() -> bool:
            return len(pool._in_use_connections) <= 1  # the one that many share

        await until(is_free)

    run(valkey, use)


def test_several_models_without_a_group_are_asked_too(valkey: RealValkey) -> None:
    base = MeanBase()

    async def use(api: Api) -> None:
        await api.see(beat("w1", held("cats", None), held("dogs", None)))
        request = together(api)
        await api.queued(CATS, DOGS)
        assert api.tasks.sent == [(CATS, None), (DOGS, None)]
        worker = batcher_of(valkey, "w1", base)
        for queue in (CATS, DOGS):
            await asyncio.to_thread(worker.run, queue)
        assert answers(*await request) == [10, 11]

    run(valkey, use)


def test_depths_and_rates_of_all_queues_are_read_at_once(valkey: RealValkey) -> None:
    async def use(api: Api) -> None:
        await api.client.set(CATS.rate_key, "12.500")
        await api.client.rpush(DOGS.key, b"1", b"2")
        await api.see(beat("w1", held("cats"), held("dogs")))
        shown = {queue.name: (queue.depth, queue.drain_rate) for queue in api.workers.queues()}
        assert len(shown) == 6
        assert {name: values for name, values in shown.items() if values != (0, None)} == {
            CATS.key: (0, 12.5),
            DOGS.key: (2, None),
        }
        assert api.workers.rate(CATS) == 12.5
        assert api.workers.rate(DOGS) is None

    run(valkey, use)


def test_images_that_do_not_reach_their_worker_are_queued_again(valkey: RealValkey) -> None:
    """A connection is cut while they are on their way: they are claimed, and no worker has them."""
    base = MeanBase()

    async def use(api: Api) -> None:
        beats = (beat("w1", held("cats"), held("dogs")),)
        await api.see(*beats)
        request = api.request(CATS)
        await api.queued(CATS)
        client = valkey.client()
        worker = WorkerQueues(client, "w1")
        assert len(worker.take_unless(GROUP, 4) or []) == 1
        worker.report_lost(client)
        worker.report_lost(client)
        await api.recovery.run_once()
        assert await api.depth(CATS) == 0  # it has them
        after = WorkerQueues(client, "w1")  # it never had them
        after.report_lost(client)
        await api.recovery.run_once()
        assert await api.depth(CATS) == 0  # they may still arrive
        after.report_lost(client)
        await api.recovery.run_once()
        assert await api.depth(CATS) == 1
        assert await api.queues.claimed("w1") == set()
        assert {one.item.attempt for one in api.replies.pending.values()} == {1}
        await asyncio.to_thread(batcher_of(valkey, "w1", base).run, CATS, GROUP)
        assert len(await request) == 1
        assert (await api.queues.lost(["w1"]))["w1"] == set()

    run(valkey, use)
