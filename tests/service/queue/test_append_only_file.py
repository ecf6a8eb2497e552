"""An erasure counts as done when Redis' file has been rewritten, not when that has begun."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from contracts.errors import Unavailable
from service.queue.append_only_file import rewrite_append_only_file
from tests.valkey import RealValkey

DELETED = b"hashes of an erased person"


@pytest.fixture
def slow() -> Iterator[RealValkey]:
    """A server that takes two seconds for a rewrite, after a key has been deleted."""
    server = RealValkey("--rdb-key-save-delay", "20000")
    server.start()
    with server.client().pipeline() as pipeline:
        for number in range(100):
            pipeline.set(f"key {number}", b"value")
        pipeline.set("recent", DELETED)
        pipeline.delete("recent")
        pipeline.execute()
    yield server
    server.close()


def test_it_waits_for_the_end(slow: RealValkey) -> None:
    async def use(client: Redis) -> None:
        assert await rewrite_append_only_file(client)

    run(slow, use)
    assert DELETED not in slow.log_content()


@pytest.mark.parametrize("whose", ["its child", "the server"])
def test_a_rewrite_that_fails_does_not_count(slow: RealValkey, whose: str) -> None:
    async def use(client: Redis) -> None:
        rewriting = asyncio.create_task(rewrite_append_only_file(client))
        while not (children := slow.children()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        if whose == "its child":  # killed for lack of memory
            os.kill(children[0], signal.SIGKILL)
        else:
            slow.kill()
            slow.start()
        with pytest.raises((Unavailable, RedisError)):
            await rewriting
        assert DELETED in slow.log_content()
        await client.config_set("rdb-key-save-delay", 0)
        assert await rewrite_append_only_file(client)

    run(slow, use)
    assert DELETED not in slow.log_content()


def test_one_that_takes_too_long_does_not_count(
    slow: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.queue.append_only_file._WAIT_SECONDS", 0.3)

    async def use(client: Redis) -> None:
        with pytest.raises(Unavailable):
            await rewrite_append_only_file(client)

    run(slow, use)


def run(server: RealValkey, use: Callable[[Redis], Awaitable[None]]) -> None:
    async def work() -> None:
        async with Redis.from_url(server.url) as client:
            await use(client)

    asyncio.run(work())
