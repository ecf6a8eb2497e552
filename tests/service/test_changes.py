"""What one API process changes, the others know before it is acknowledged."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
import redis.asyncio

from contracts.errors import Unavailable
from contracts.queue import redis_keys
from contracts.queue.announcing import announce
from contracts.queue.celery import ASYNC_REDIS_OPTIONS
from contracts.queue.changes import pack_change, parse_entry_id, topics_of
from service import changes as module
from service.changes import ChangeFeed
from service.shared_check import SharedCheck
from tests.valkey import RealValkey


@dataclass
class Truth:
    """What the database or the store would hold."""

    value: int = 0


@dataclass
class Process:
    """One API process: what it remembers, and its end of the change feed."""

    truth: Truth
    seen: int = 0
    delay: float = 0.0
    broken: bool = False
    reads: int = 0
    feed: ChangeFeed = field(init=False)
    state: SharedCheck = field(init=False)

    def __post_init__(self) -> None:
        self.state = SharedCheck(self._read)

    async def _read(self) -> None:
        self.reads += 1
        if self.broken:
            raise Unavailable("The database does not answer.", retry_after=1)
        value = self.truth.value
        await asyncio.sleep(self.delay)
        self.seen = value

    async def change(self, value: int) -> bool:
        self.truth.value = value
        return await self.feed.announce("keys")

    async def request(self) -> int:
        await self.feed.require_current()
        return self.seen


@asynccontextmanager
async def processes(url: str, count: int = 3) -> AsyncIterator[list[Process]]:
    truth, options = Truth(), dict[str, Any](ASYNC_REDIS_OPTIONS)
    started: list[Process] = []
    clients = [redis.asyncio.Redis.from_url(url, **options) for _ in range(2 * count)]
    try:
        for number in range(count):
            process = Process(truth)
            process.feed = ChangeFeed(
                *clients[2 * number : 2 * number + 2], f"api-{number}", {"keys": process.state}
            )
            await process.feed.start()
            started.append(process)
        yield started
    finally:
        for process in started:
            await process.feed.stop()
        for client in clients:
            await client.aclose()


def run(url: str, use: Callable[[list[Process]], Awaitable[None]]) -> None:
    async def body() -> None:
        async with processes(url) as started:
            await use(started)

    asyncio.run(body())


def test_every_process_knows_a_change_when_it_is_acknowledged(valkey: RealValkey) -> None:
    async def use(started: list[Process]) -> None:
        for number in range(1, 31):
            assert await started[number % 3].change(number)
            assert [await other.request() for other in started] == [number] * 3
        started[1].delay = 0.3
        assert await started[0].change(31)
        assert [await other.request() for other in started] == [31] * 3

    run(valkey.url, use)


def test_a_process_that_hangs_delays_a_change_and_then_checks_first(
    valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(started: list[Process]) -> None:
        await started[1].feed._task.stop()  # no longer follows; its key still exists
        began = time.monotonic()
        assert await started[0].change(1)
        assert time.monotonic() - began >= module.FRESH_SECONDS, "it waited for the others"
        assert started[1].seen == 0
        assert await started[1].request() == 1

    monkeypatch.setattr(module, "FRESH_SECONDS", 0.4)
    run(valkey.url, use)


def test_a_process_that_nobody_waits_for_checks_before_each_request(
    valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(started: list[Process]) -> None:
        await started[1].feed._task.stop()
        await asyncio.sleep(0.5)  # its key expires
        assert await started[0].change(1)
        assert [await started[1].request(), started[1].seen] == [1, 1]
        await started[1].feed._register()
        started[1].truth.value = 2  # announced before it was in the list again
        await started[1].feed._register()
        assert await started[1].request() == 2

    monkeypatch.setattr(module, "API_PROCESS_EXPIRE_SECONDS", 0.4)
    monkeypatch.setattr(module, "_BLOCK_SECONDS", 0.1)
    run(valkey.url, use)


def test_without_redis_a_change_holds_all_the_same(
    valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(started: list[Process]) -> None:
        valkey.kill()
        try:
            began = time.monotonic()
            assert await started[0].change(1)
            assert time.monotonic() - began >= module.FRESH_SECONDS
            assert [await other.request() for other in started] == [1] * 3
        finally:
            valkey.start()
        await asyncio.sleep(1)  # they follow again
        assert await started[2].change(2)
        assert [await other.request() for other in started] == [2] * 3

    monkeypatch.setattr(module, "FRESH_SECONDS", 0.4)
    run(valkey.url, use)


def test_an_emptied_redis_loses_no_change(valkey: RealValkey) -> None:
    async def use(started: list[Process]) -> None:
        assert await started[0].change(1)
        async with redis.asyncio.Redis.from_url(valkey.url) as client:
            await client.flushall()
            # A clock that was set back: the ids of the new stream begin lower.
            await client.xadd(redis_keys.CHANGES, pack_change(["keys"], "other"), id="5-1")
        await asyncio.sleep(1.2)
        for number in (2, 3):
            assert await started[number % 3].change(number)
            assert [await other.request() for other in started] == [number] * 3

    run(valkey.url, use)


def test_a_change_that_cannot_be_read_is_not_ignored(
    valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(started: list[Process]) -> None:
        started[1].broken = True
        assert await started[1].request() == 0, "without a database it goes on with what it knows"
        assert await started[0].change(1)
        with pytest.raises(Unavailable):
            await started[1].request()
        assert await started[2].request() == 1
        assert [other.feed.unread for other in started] == [[], ["keys"], []]
        started[1].broken = False
        await asyncio.sleep(0.8)
        assert await started[1].request() == 1
        assert started[1].feed.unread == []

    monkeypatch.setattr(module, "FRESH_SECONDS", 0.4)
    run(valkey.url, use)


def test_a_change_that_is_being_read_is_not_yet_reported_as_unread(valkey: RealValkey) -> None:
    async def use(started: list[Process]) -> None:
        started[0].broken = True
        await started[0].feed.check("keys")  # a failure of earlier, which has passed
        started[0].broken = False
        await asyncio.sleep(module._RETRY_SECONDS)
        assert await started[0].request() == 0
        started[0].delay = 0.3
        change = asyncio.create_task(started[0].change(1))
        await asyncio.sleep(0.1)
        assert started[0].feed.unread == []
        assert await change

    run(valkey.url, use)


def test_a_change_is_waited_for_rather_than_refused_on_a_busy_machine(
    valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.1)

    async def use(started: list[Process]) -> None:
        started[0].delay = 0.5
        change = asyncio.create_task(started[0].change(1))
        await asyncio.sleep(0.1)
        assert await started[0].request() == 1
        assert await change

    run(valkey.url, use)


def test_a_deadline_that_is_too_short_is_reported(valkey: RealValkey) -> None:
    async def use(started: list[Process]) -> None:
        started[1].delay = 0.5
        started[0].truth.value = 1
        assert not await started[0].feed.announce("keys", seconds=0.1)

    run(valkey.url, use)


def test_commands_and_jobs_announce_their_changes_too(valkey: RealValkey) -> None:
    def change(truth: Truth, value: int, seconds: float) -> bool:
        with redis.Redis.from_url(valkey.url) as client:
            truth.value = value
            return announce(client, "keys", seconds=seconds)

    async def use(started: list[Process]) -> None:
        truth = started[0].truth
        assert await asyncio.to_thread(change, truth, 1, 2.0)
        assert [await other.request() for other in started] == [1] * 3
        started[2].delay = 0.5
        assert not await asyncio.to_thread(change, truth, 2, 0.1)

    run(valkey.url, use)


def test_requests_share_a_check_that_began_after_they_arrived() -> None:
    async def body() -> None:
        process = Process(Truth(), delay=0.05)
        early = asyncio.create_task(process.state.refresh())
        await asyncio.sleep(0.01)
        process.truth.value = 1  # the early check has read the earlier value
        await asyncio.gather(*(process.state.refresh() for _ in range(50)))
        assert (process.seen, process.reads) == (1, 2)
        await early

    asyncio.run(body())


def test_an_entry_with_a_topic_of_a_later_release_concerns_everything() -> None:
    assert topics_of({b"topics": b"keys"}) == {"keys"}
    assert topics_of({b"topics": b"keys,policies"}) == {"keys", "models", "faces"}
    assert topics_of({}) == {"keys", "models", "faces"}


def test_ids_compare_in_the_order_of_the_stream() -> None:
    ids = [b"9-2", b"9-10", b"10-0"]
    assert sorted(ids, key=parse_entry_id) == ids
    assert parse_entry_id(None) == parse_entry_id(b"?") == (0, 0)
