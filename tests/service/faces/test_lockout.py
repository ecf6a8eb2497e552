"""Five failures in three minutes and no sixth try, however many come at once. On a real Valkey."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis
from redis.asyncio import Redis

from contracts.errors import LockedOut, Unavailable
from contracts.queue import redis_keys
from service.faces import lockout
from service.faces.lockout import LOCK_SECONDS, MOST_FAILURES, Lockout
from tests.valkey import RealValkey


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Lockout]:
    async with Redis.from_url(url) as client:
        yield Lockout(client)


async def fail(door: Lockout, subject_id: str, device: str) -> bool:
    return await door.end(await door.begin(subject_id, device), failed=True)


def test_the_fifth_failure_locks_subject_and_device(valkey: RealValkey) -> None:
    async def check() -> None:
        async with opened(valkey.url) as door:
            told = [await fail(door, "sub_a", "phone") for _ in range(MOST_FAILURES)]
            assert told == [False] * 4 + [True]
            for subject_id, device in (("sub_a", "other"), ("sub_b", "phone")):
                with pytest.raises(LockedOut) as error:
                    await door.begin(subject_id, device)
                assert LOCK_SECONDS - 5 < (error.value.retry_after or 0) <= LOCK_SECONDS
            await door.end(await door.begin("sub_b", "other"), failed=False)
        async with opened(valkey.url) as another:  # another process, or this one after a restart
            with pytest.raises(LockedOut):
                await another.begin("sub_a", "third")

    asyncio.run(check())


def test_a_device_that_tries_many_subjects_locks_itself_alone(valkey: RealValkey) -> None:
    async def check() -> None:
        async with opened(valkey.url) as door:
            for at in range(MOST_FAILURES):
                await fail(door, f"sub_{at}", "thief")
            with pytest.raises(LockedOut):
                await door.begin("sub_9", "thief")
            await door.end(await door.begin("sub_0", "owner"), failed=False)

    asyncio.run(check())


def test_of_fifty_tries_at_once_five_are_judged(valkey: RealValkey) -> None:
    async def one(door: Lockout) -> bool:
        try:
            attempt = await door.begin("sub_a", "phone")
        except LockedOut:
            return False
        await asyncio.sleep(0.05)
        await door.end(attempt, failed=True)
        return True

    async def check() -> None:
        async with opened(valkey.url) as door:
            judged = sum(await asyncio.gather(*(one(door) for _ in range(50))))
            assert judged == MOST_FAILURES
            with pytest.raises(LockedOut):
                await door.begin("sub_a", "phone")

    asyncio.run(check())


def test_successes_and_accidents_do_not_count_and_old_failures_fade(
    valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lockout, "WINDOW_SECONDS", 1)

    async def check() -> None:
        async with opened(valkey.url) as door:
            for _ in range(20):
                await door.end(await door.begin("sub_a", "phone"), failed=False)
            for _ in range(MOST_FAILURES - 1):
                await fail(door, "sub_a", "phone")
            await asyncio.sleep(1.1)
            for _ in range(MOST_FAILURES - 1):
                assert not await fail(door, "sub_a", "phone")

    asyncio.run(check())


def test_nothing_is_left_for_ever_and_nothing_of_who_is_forgotten(valkey: RealValkey) -> None:
    async def check() -> None:
        async with opened(valkey.url) as door:
            await door.begin("sub_b", "phone")  # its process died: never ended
            for _ in range(MOST_FAILURES):
                await fail(door, "sub_a", "laptop")
            with redis.Redis.from_url(valkey.url) as client:
                keys = list(client.scan_iter("faces:*"))
                assert keys
                assert all(client.ttl(key) > 0 for key in keys)
                await door.forget("sub_a")
                assert not client.exists(redis_keys.face_lock("subject:sub_a"))
                assert not list(client.scan_iter("*sub_a*"))

    asyncio.run(check())


def test_without_redis_nobody_gets_in() -> None:
    async def check() -> None:
        async with opened("unix:///nowhere") as door:
            with pytest.raises(Unavailable):
                await door.begin("sub_a", "phone")

    asyncio.run(check())


def test_of_who_was_erased_meanwhile_only_the_device_is_counted(valkey: RealValkey) -> None:
    async def check() -> None:
        async with opened(valkey.url) as door:
            attempt = await door.begin("sub_a", "phone")
            await door.forget("sub_a")
            await door.end(attempt, failed=True)

    asyncio.run(check())
    with redis.Redis.from_url(valkey.url) as client:
        kept = sorted(client.keys("faces:*"))
        assert kept == [redis_keys.face_failures("device:phone").encode()]
