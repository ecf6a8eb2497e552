"""The API shares pixels with workers that can read its memory; otherwise they travel.

On a real Valkey; the tests act as the workers, with the memory of this process.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import pytest
import redis

from contracts.queue import redis_keys
from contracts.queue.heartbeat import WorkerBeat
from contracts.queue.messages import Item, Reply
from contracts.queue.shared_pixels import SharedPixels
from tests.service.queue.test_dispatcher import QUEUE, Api, api_on, until
from tests.valkey import RealValkey
from workers.inference.queue import WorkerQueues

IMAGES = [np.full((64, 64, 3), value, np.uint8) for value in (3, 5)]


@pytest.fixture
def shared() -> Iterator[SharedPixels]:
    with closing(SharedPixels(slots=2)) as shared:
        yield shared


@pytest.fixture
def client(valkey: RealValkey) -> redis.Redis:
    return valkey.client()


def run(
    valkey: RealValkey, shared: SharedPixels, use: Callable[[Api], Coroutine[Any, Any, None]]
) -> None:
    async def body() -> None:
        async with api_on(valkey, shared) as api:
            await use(api)

    asyncio.run(body())


async def see(api: Api, client: redis.Redis, *workers: WorkerQueues | str) -> None:
    """Let these be the live workers; a name alone is a worker of the release before."""
    client.delete(redis_keys.WORKERS)
    for number, worker in enumerate(workers):
        names: tuple[str, ...] = ()
        if isinstance(worker, WorkerQueues):
            worker.follow_shared_pixels(client)
            names = worker.shared_pixels.names
        beat = WorkerBeat(
            id=f"w{number}" if isinstance(worker, WorkerQueues) else worker,
            host="h",
            pid=1,
            release="1",
            started_at=0,
            beat_at=0,
            shared_pixels=names,
        )
        client.sadd(redis_keys.WORKERS, beat.id)
        client.set(redis_keys.heartbeat_key(beat.id), beat.model_dump_json())
    await api.workers.refresh()
    await api.recovery.run_once()


def request(api: Api) -> "asyncio.Task[Any]":
    return asyncio.create_task(api.dispatcher.run(QUEUE, IMAGES, deadline=time.monotonic() + 60))


def waiting_bytes(client: redis.Redis) -> list[int]:
    raws: Any = client.lrange(QUEUE.key, 0, -1)
    return [len(raw) for raw in raws]


async def waits(client: redis.Redis, count: int) -> bool:
    return len(waiting_bytes(client)) == count


def answer(worker: WorkerQueues, items: list[Item]) -> None:
    """Reply with the first value of each image."""
    replies = [
        Reply(item.id, 1, 1, 0, 0, vector=item.pixels[0, 0, :1].astype(np.float32))
        for item in items
    ]
    worker.send_replies(list(zip(items, replies, strict=True)), {QUEUE: 10})


async def answered(asked: "asyncio.Task[Any]") -> list[float]:
    return [float(reply.vector[0]) for reply in await asked]


def room(shared: SharedPixels) -> int:
    """How many slots are free."""
    ids = [bytes([number]) * 16 for number in range(3)]
    free = sum(bool(shared.put(one, IMAGES[0])) for one in ids)
    for one in ids:
        shared.release(one)
    return free


def test_pixels_are_shared_if_every_worker_can_read_them(
    valkey: RealValkey, client: redis.Redis, shared: SharedPixels
) -> None:
    async def use(api: Api) -> None:
        worker = WorkerQueues(client, "w0")
        for workers, are_shared in (
            ((worker,), True),
            ((worker, "old"), False),
            ((worker, WorkerQueues(client, "w1")), True),
            (("old",), False),
        ):
            await see(api, client, *workers)
            asked = request(api)
            await api.queued()
            assert [size < 256 for size in waiting_bytes(client)] == [are_shared] * 2
            assert room(shared) == (0 if are_shared else 2)
            answer(worker, worker.take(QUEUE, 4))
            assert await answered(asked) == [3, 5]
            assert room(shared) == 2

    run(valkey, shared, use)


def test_what_finds_no_room_travels(
    valkey: RealValkey, client: redis.Redis, shared: SharedPixels
) -> None:
    async def use(api: Api) -> None:
        worker = WorkerQueues(client, "w0")
        await see(api, client, worker)
        first, second = request(api), request(api)
        await until(partial(waits, client, 4))
        assert [size < 256 for size in waiting_bytes(client)] == [True, True, False, False]
        answer(worker, worker.take(QUEUE, 4))
        assert await answered(first) == await answered(second) == [3, 5]

    run(valkey, shared, use)


def test_the_successor_of_a_killed_worker_gets_the_pixels_themselves(
    valkey: RealValkey, client: redis.Redis, shared: SharedPixels
) -> None:
    async def use(api: Api) -> None:
        lost, successor = WorkerQueues(client, "w0"), WorkerQueues(client, "w1")
        await see(api, client, lost)
        asked = request(api)
        await api.queued()
        assert len(lost.take(QUEUE, 4)) == 2
        await see(api, client, "w1")
        assert [size > IMAGES[0].nbytes for size in waiting_bytes(client)] == [True, True]
        assert room(shared) == 0  # the other worker may be alive and still read
        taken = successor.take(QUEUE, 4)
        assert [item.attempt for item in taken] == [2, 2]
        answer(successor, taken)
        assert sorted(await answered(asked)) == [3, 5]
        assert room(shared) == 2

    run(valkey, shared, use)


def test_a_worker_that_cannot_read_them_is_sent_the_pixels(
    valkey: RealValkey, client: redis.Redis
) -> None:
    """As one on another host does that started just now."""

    shared = SharedPixels()

    async def use(api: Api) -> None:
        await see(api, client, WorkerQueues(client, "w0"))
        asked = request(api)
        await api.queued()
        shared.close()  # nobody can open it any more
        worker = WorkerQueues(client, "w0")
        assert worker.take(QUEUE, 4) == []
        worker.report_lost(client)
        worker.report_lost(client)
        await api.recovery.run_once()
        taken = worker.take(QUEUE, 4)
        assert [item.attempt for item in taken] == [1, 1]
        answer(worker, taken)
        assert sorted(await answered(asked)) == [3, 5]

    run(valkey, shared, use)


def test_the_room_of_a_client_that_left_is_used_again(
    valkey: RealValkey, client: redis.Redis, shared: SharedPixels
) -> None:
    async def use(api: Api) -> None:
        worker = WorkerQueues(client, "w0")
        await see(api, client, worker)
        left = request(api)
        await api.queued()
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        assert room(shared) == 2
        client.delete(*client.keys("abandoned:*"))  # as when the mark has expired
        asked = request(api)
        await until(partial(waits, client, 4))
        taken = worker.take(QUEUE, 4)
        assert len(taken) == 2
        answer(worker, taken)
        assert await answered(asked) == [3, 5]

    run(valkey, shared, use)


def test_claims_of_what_nobody_waits_for_are_released_in_the_end(
    valkey: RealValkey, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = WorkerQueues(client, "w0")
    client.rpush(QUEUE.key, b"OPI0" + bytes(16))  # of a release long gone
    assert worker.take(QUEUE, 1) == []
    for _ in range(3):
        worker.report_lost(client)
    assert client.scard(redis_keys.claims("w0")) == 1
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 4000)
    worker.report_lost(client)
    assert client.scard(redis_keys.claims("w0")) == 0
