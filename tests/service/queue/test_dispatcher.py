"""Dispatch, replies and sweep on a real Valkey; the worker is this test."""

import asyncio
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import redis
import redis.asyncio

from contracts.errors import NoWorker
from contracts.queue import redis_keys
from contracts.queue.celery import REDIS_OPTIONS
from contracts.queue.heartbeat import WorkerBeat
from contracts.queue.messages import Item, Reply
from models.store.store import Store
from service.queue.admission import Admission, LaneLimits
from service.queue.client import Lanes
from service.queue.dispatcher import Dispatch, Drains
from service.queue.recovery import Sweep
from service.queue.replies import Replies
from service.queue.workers import Presence
from tests.valkey import RealValkey
from workers.inference.queue import LaneName
from workers.inference.queue import Lanes as WorkerLanes

LANE = LaneName("squeezenet", 1, "classify")
PICTURE = np.zeros((2, 2, 3), np.uint8)


@dataclass
class Sent:
    """Notes which drains would have been sent."""

    lanes: list[str] = field(default_factory=list)

    async def send(self, lane: str) -> None:
        self.lanes.append(lane)


@dataclass
class Api:
    dispatch: Dispatch
    replies: Replies
    lanes: Lanes
    sweep: Sweep
    presence: Presence
    client: redis.asyncio.Redis

    def ask(self, seconds: float) -> "asyncio.Task[Any]":
        deadline = time.monotonic() + seconds
        return asyncio.create_task(
            self.dispatch.run("squeezenet", 1, "classify", [PICTURE], deadline=deadline)
        )

    async def queued(self) -> None:
        await until(lambda: self.lanes.depth(LANE.key))


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    for _ in range(500):
        if await condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within five seconds")


@asynccontextmanager
async def api_on(valkey: RealValkey) -> AsyncIterator[Api]:
    options: dict[str, Any] = dict(REDIS_OPTIONS)
    async with (
        redis.asyncio.Redis.from_url(valkey.url, **options) as client,
        redis.asyncio.Redis.from_url(valkey.url, **options) as blocking,
    ):
        lanes, drains = Lanes(client, LaneLimits(8)), cast(Drains, Sent())
        presence = Presence(client, ("squeezenet",), Store(Path("/nowhere")))
        await presence.refresh()
        replies = Replies(blocking, secrets.token_hex(4))
        replies.start()
        dispatch = Dispatch(lanes, replies, drains, Admission(LaneLimits(8)), presence)
        sweep = Sweep(lanes, replies, drains, presence)
        try:
            yield Api(dispatch, replies, lanes, sweep, presence, client)
        finally:
            await replies.stop()


def run(valkey: RealValkey, use: Callable[[Api], Coroutine[Any, Any, None]]) -> None:
    async def body() -> None:
        async with api_on(valkey) as api:
            await use(api)

    asyncio.run(body())


def answer(client: redis.Redis, *items: Item, worker: str = "w1") -> None:
    replies = [(i, Reply(i.id, 1, 1, 0, 0, vector=np.ones(3, np.float32))) for i in items]
    WorkerLanes(client, worker).answer(LANE, replies, 10)


@pytest.fixture
def worker_client(valkey: RealValkey) -> redis.Redis:
    return redis.Redis.from_url(valkey.url)


def test_a_silent_redis_does_not_hold_the_answer_back(valkey: RealValkey) -> None:
    async def use(api: Api) -> None:
        process = valkey.process
        assert process
        process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(NoWorker):
                await api.ask(0.5)
            assert time.monotonic() - began < 4
        finally:
            process.send_signal(signal.SIGCONT)

    run(valkey, use)


def test_who_gives_up_is_struck_from_the_lane(
    valkey: RealValkey, worker_client: redis.Redis
) -> None:
    async def use(api: Api) -> None:
        asked = api.ask(30)
        await api.queued()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await until(lambda: api.client.keys(redis_keys.ABANDONED_PREFIX.decode() + "*"))
        assert WorkerLanes(worker_client, "w1").take(LANE, 4) == []
        assert not api.replies.waiting

    run(valkey, use)


def test_a_wiped_redis_costs_a_sweep_and_not_the_deadline(
    valkey: RealValkey, worker_client: redis.Redis
) -> None:
    async def use(api: Api) -> None:
        await api.sweep.sweep()
        asked = api.ask(10)
        await api.queued()
        worker_client.flushall()
        await api.sweep.sweep()
        answer(worker_client, *WorkerLanes(worker_client, "w1").take(LANE, 4))
        assert len(await asked) == 1

    run(valkey, use)


def test_a_restarted_redis_is_another_one(valkey: RealValkey) -> None:
    async def use(api: Api) -> None:
        before = await api.lanes.incarnation()
        assert await api.lanes.incarnation() == before
        valkey.kill()
        valkey.start()
        await asyncio.gather(api.client.ping(), return_exceptions=True)  # its connection is gone
        assert await api.lanes.incarnation() != before

    run(valkey, use)


def test_a_lost_workers_images_are_sent_again(
    valkey: RealValkey, worker_client: redis.Redis
) -> None:
    async def use(api: Api) -> None:
        beat(worker_client, "w1")
        await api.presence.refresh()
        await api.sweep.sweep()
        asked = api.ask(10)
        await api.queued()
        assert len(WorkerLanes(worker_client, "w1").take(LANE, 4)) == 1
        worker_client.delete(redis_keys.worker_beat("w1"))
        await api.presence.refresh()
        await api.sweep.sweep()
        again = WorkerLanes(worker_client, "w2").take(LANE, 4)
        assert [item.attempt for item in again] == [2]
        assert worker_client.scard(redis_keys.claims("w1")) == 0
        answer(worker_client, *again, worker="w2")
        assert len(await asked) == 1

    run(valkey, use)


def test_a_worker_that_was_only_silent_is_not_held_against_its_images(
    valkey: RealValkey, worker_client: redis.Redis
) -> None:
    async def use(api: Api) -> None:
        asked = api.ask(10)
        for _ in range(3):  # more often than an image may be lost
            beat(worker_client, "w1")
            await api.presence.refresh()
            await api.sweep.sweep()
            await api.queued()
            assert len(WorkerLanes(worker_client, "w1").take(LANE, 4)) == 1
            worker_client.delete(redis_keys.worker_beat("w1"))
            await api.presence.refresh()
            await api.sweep.sweep()
        beat(worker_client, "w1")
        await api.presence.refresh()
        await api.sweep.sweep()
        answer(worker_client, *WorkerLanes(worker_client, "w1").take(LANE, 4))
        assert isinstance((await asked)[0], Reply)

    run(valkey, use)


def test_an_image_that_was_given_up_meanwhile_is_not_sent_again(
    valkey: RealValkey, worker_client: redis.Redis
) -> None:
    """Else it would stay in the table of those who wait for as long as the process lives."""

    async def use(api: Api) -> None:
        asked = api.ask(10)
        await api.queued()
        (waiting,) = api.replies.waiting.values()
        WorkerLanes(worker_client, "w1").take(LANE, 4)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await api.sweep._again(waiting)
        assert not api.replies.waiting
        assert await api.lanes.depth(LANE.key) == 0

    run(valkey, use)


def beat(client: redis.Redis, worker: str) -> None:
    sign = WorkerBeat(id=worker, host="h", pid=1, release="0", started_at=0, beat_at=0)
    client.sadd(redis_keys.WORKERS, worker)
    client.set(redis_keys.worker_beat(worker), sign.model_dump_json())
