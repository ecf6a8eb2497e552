"""Workers of another installation on the same Redis, with a real Valkey."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis

from contracts.queue import redis_keys
from contracts.queue.celery import ASYNC_REDIS_OPTIONS
from contracts.queue.heartbeat import HeldModel
from models.store.store import Store
from service.queue.workers import WorkerRegistry
from tests.valkey import RealValkey
from workers.inference.heartbeat import HeartbeatPublisher

OURS, THEIRS = "ins_0123456789", "ins_abcdefghij"
LOADED = HeldModel(name="pets", version=1, state="ready", operations=("classify",))


@asynccontextmanager
async def registry(valkey: RealValkey, installation: str | None) -> AsyncIterator[WorkerRegistry]:
    async with Redis.from_url(valkey.url, **ASYNC_REDIS_OPTIONS) as client:
        store = Store(Path("/nowhere"))
        yield WorkerRegistry(client, ("pets",), store, installation=installation)


def beat(valkey: RealValkey, worker: str, installation: str | None, **queues: int) -> None:
    publisher = HeartbeatPublisher(valkey.client(), worker, queues)
    publisher.set_installation(lambda: installation)
    publisher.report(LOADED)


def test_workers_of_another_installation_are_ignored(valkey: RealValkey) -> None:
    """Their version 1 is another one. Workers of the previous release do not say whose they are."""
    beat(valkey, "ours", OURS)
    beat(valkey, "theirs", THEIRS)
    beat(valkey, "older", None)
    beat(valkey, "their jobs", THEIRS, training=1)

    async def use() -> None:
        async with registry(valkey, OURS) as workers:
            await workers.refresh()
            assert {worker.id for worker in workers.workers} == {"ours", "older"}
            assert workers.job_workers == ()
        async with registry(valkey, None) as workers:  # of a home without an id
            await workers.refresh()
            assert {worker.id for worker in workers.workers} == {"ours", "older", "theirs"}

    asyncio.run(use())


def test_the_redis_belongs_to_the_installation_whose_api_runs(valkey: RealValkey) -> None:
    async def use() -> None:
        async with registry(valkey, OURS) as first, registry(valkey, THEIRS) as second:
            for _ in range(2):
                await first.refresh()
                await second.refresh()
                assert valkey.client().get(redis_keys.INSTALLATION) == OURS.encode()
            assert 0 < valkey.client().pttl(redis_keys.INSTALLATION) <= 5000
            valkey.client().flushall()  # or nothing of the first has run for some seconds
            await second.refresh()
            await first.refresh()
            assert valkey.client().get(redis_keys.INSTALLATION) == THEIRS.encode()

    asyncio.run(use())
