"""An erasure counts as done when Redis' file has been rewritten, not when that has begun."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from contracts.errors import Unavailable
from service.queue.append_only_file import FileWatch, rewrite_append_only_file
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


def test_a_file_that_could_not_be_written_for_a_while_is_rewritten_once(
    valkey: RealValkey,
) -> None:
    async def rewrites(client: Redis) -> int:
        return int((await client.info("persistence"))["aof_rewrites"])

    async def use(client: Redis) -> None:
        watch, before = FileWatch(client), await rewrites(client)
        await watch.run_once()
        assert await rewrites(client) == before
        with pytest.raises(ResponseError):  # as each write is answered
            await client.eval("return redis.error_reply('MISCONF Errors writing to the AOF')", 0)
        for _ in range(3):
            await watch.run_once()
        assert await rewrites(client) == before + 1

    run(valkey, use)


@pytest.mark.parametrize("is_told", [True, False])
def test_it_is_rewritten_when_it_can_be_written_again(
    valkey: RealValkey, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    """Also if no write was refused meanwhile; servers that do not tell are left alone."""

    async def use(client: Redis) -> None:
        watch, asked, statuses = FileWatch(client), list[str](), list[str]()
        real = client.info

        async def info(section: str) -> dict[str, object]:
            if not is_told:
                raise NoPermissionError("this user has no permissions")
            return await real(section) | {"aof_last_write_status": statuses[-1]}

        async def rewrite(_client: Redis) -> bool:
            asked.append(statuses[-1])
            return True

        monkeypatch.setattr(client, "info", info)
        monkeypatch.setattr("service.queue.append_only_file.rewrite_append_only_file", rewrite)
        for status in ("ok", "err", "err", "ok", "ok"):
            statuses.append(status)
            await watch.run_once()
        assert asked == (["ok"] if is_told else [])

    run(valkey, use)


def run(server: RealValkey, use: Callable[[Redis], Awaitable[None]]) -> None:
    async def work() -> None:
        async with Redis.from_url(server.url) as client:
            await use(client)

    asyncio.run(work())
