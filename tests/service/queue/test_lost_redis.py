"""A change of the store becomes known while Redis is away."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from contracts.errors import NoWorker
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
            await until_found(registry)
            assert valkey.process
            valkey.process.send_signal(signal.SIGSTOP)
            try:
                await registry.refresh()
                assert not registry.redis_ok
                seconds = []
                for _ in range(5):
                    began = time.monotonic()
                    await registry.refresh()
                    seconds.append(time.monotonic() - began)
                assert min(seconds) < CHECK
            finally:
                valkey.process.send_signal(signal.SIGCONT)
            await until_found(registry)

    asyncio.run(use())


def test_a_redis_that_refuses_the_password_is_lost_and_says_so(
    valkey: RealValkey, tmp_path: Path
) -> None:
    async def use() -> None:
        async with Redis.from_url(valkey.url, **ASYNC_REDIS_OPTIONS) as client:
            registry = WorkerRegistry(client, ("squeezenet",), Store(tmp_path))
            await until_found(registry)
            with valkey.client() as admin:
                admin.config_set("requirepass", "another")
                admin.client_kill_filter(skipme=True)
                try:
                    for _ in range(2):
                        async with asyncio.timeout(CHECK):
                            await registry.refresh()
                        assert not registry.redis_ok
                        assert "password" in registry.redis_fault
                    with pytest.raises(NoWorker, match="refuses the password"):
                        registry.choose("squeezenet", None, "classify")
                finally:
                    admin.config_set("requirepass", "")
            await until_found(registry)
            assert not registry.redis_fault
            await registry.stop()

    asyncio.run(use())


async def until_found(registry: WorkerRegistry) -> None:
    for _ in range(50):  # a busy machine may answer too late
        await registry.refresh()
        if registry.redis_ok:
            return
    raise AssertionError("Redis is there, and stays lost")


DELAY = 0.075  # seconds in each direction, as between continents


class FarAway:
    """A way to a Valkey that takes long, and can be cut."""

    def __init__(self, valkey: RealValkey) -> None:
        self._address = urlsplit(valkey.url)
        self._writers: list[asyncio.StreamWriter] = []
        self.is_cut = False

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[str]:
        """Its address."""
        async with await asyncio.start_server(self._relay, "127.0.0.1", 0) as server:
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
            self.cut()

    def cut(self) -> None:
        self.is_cut = True
        for writer in self._writers:
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if self.is_cut:
            writer.close()
            return
        address = self._address
        if address.scheme == "unix":
            far = await asyncio.open_unix_connection(address.path)
        else:
            far = await asyncio.open_connection(address.hostname, address.port)
        self._writers.append(far[1])
        await asyncio.gather(self._carry(reader, far[1]), self._carry(far[0], writer))

    @staticmethod
    async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(DELAY)
            writer.write(data)
        writer.close()


def test_a_redis_that_is_far_away_is_found_again(valkey: RealValkey, tmp_path: Path) -> None:
    """It answers, only later than a lost one is waited for."""

    async def use() -> None:
        way = FarAway(valkey)
        async with way.opened() as url, Redis.from_url(url, **ASYNC_REDIS_OPTIONS) as client:
            registry = WorkerRegistry(client, ("squeezenet",), Store(tmp_path))
            await until_found(registry)
            way.cut()
            await registry.refresh()
            assert not registry.redis_ok
            way.is_cut = False
            await until_found(registry)
            await registry.stop()

    asyncio.run(use())
