"""A change of the store becomes known while Redis is away."""

import asyncio
import signal
from pathlib import Path

from redis.asyncio import Redis

from contracts.queue.celery import ASYNC_REDIS_OPTIONS
from models.store.store import Store
from service.queue.workers import WorkerRegistry
from tests.valkey import RealValkey

SHORT = {"socket_timeout": 0.3, "socket_connect_timeout": 0.3}
CHECK = 1.0  # seconds that a request waits for its check, see `service.changes`


def test_the_store_does_not_wait_for_a_redis_that_is_lost(
    valkey: RealValkey, tmp_path: Path
) -> None:
    """Otherwise every request would be refused from the first announced change on."""

    async def use() -> None:
        options = ASYNC_REDIS_OPTIONS | SHORT
        async with Redis.from_url(valkey.url, **options) as client:
            registry = WorkerRegistry(client, ("squeezenet",), Store(tmp_path))
            await registry.refresh()
            assert registry.redis_ok
            assert valkey.process
            valkey.process.send_signal(signal.SIGSTOP)
            try:
                await registry.refresh()
                assert not registry.redis_ok
                async with asyncio.timeout(CHECK):
                    await registry.refresh()
            finally:
                valkey.process.send_signal(signal.SIGCONT)
            for _ in range(50):  # a busy machine may be late once more
                await registry.refresh()
                if registry.redis_ok:
                    return
            raise AssertionError("Redis is back, and stays lost")

    asyncio.run(use())
