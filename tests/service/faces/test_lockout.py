"""Lockout after five failures in three minutes, also of simultaneous attempts, in a real Valkey."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis
from redis.asyncio import Redis

from contracts.errors import LockedOut, Unavailable
from contracts.queue import redis_keys
from service.faces import lockout as lockout_module
from service.faces.lockout import LOCK_SECONDS, MAX_FAILURES, Lockout
from tests.valkey import RealValkey


@asynccontextmanager
async def open_lockout(url: str) -> AsyncIterator[Lockout]:
    async with Redis.from_url(url) as client:
        yield Lockout(client)


async def fail(lockout: Lockout, subject_id: str, device: str) -> bool:
    return await lockout.end(await lockout.begin(subject_id, device), failed=True)


def test_the_fifth_failure_locks_subject_and_device(valkey: RealValkey) -> None:
    async def check() -> None:
        async with open_lockout(valkey.url) as lockout:
            locked = [await fail(lockout, "sub_a", "phone") for _ in range(MAX_FAILURES)]
            assert locked == [False] * 4 + [True]
            for subject_id, device in (("sub_a", "other"), ("sub_b", "phone")):
                with pytest.raises(LockedOut) as error:
                    await lockout.begin(subject_id, device)
                assert "Try again in 30 minutes." in error.value.detail
                assert LOCK_SECONDS - 5 < (error.value.retry_after or 0) <= LOCK_SECONDS
            await lockout.end(await lockout.begin("sub_b", "other"), failed=False)
        async with open_lockout(
            valkey.url
        ) as another:  # another process, or this attempt_once after a restart
            with pytest.raises(LockedOut):
                await another.begin("sub_a", "third")

    asyncio.run(check())


def test_a_device_that_tries_many_subjects_locks_only_itself(valkey: RealValkey) -> None:
    async def check() -> None:
        async with open_lockout(valkey.url) as lockout:
            for number in range(MAX_FAILURES):
                await fail(lockout, f"sub_{number}", "thief")
            with pytest.raises(LockedOut):
                await lockout.begin("sub_9", "thief")
            await lockout.end(await lockout.begin("sub_0", "owner"), failed=False)

    asyncio.run(check())


def test_five_of_fifty_simultaneous_attempts_are_judged(valkey: RealValkey) -> None:
    async def attempt_once(lockout: Lockout) -> bool:
        try:
            attempt = await lockout.begin("sub_a", "phone")
        except LockedOut:
            return False
        await asyncio.sleep(0.05)
        await lockout.end(attempt, failed=True)
        return True

    async def check() -> None:
        async with open_lockout(valkey.url) as lockout:
            judged = sum(await asyncio.gather(*(attempt_once(lockout) for _ in range(50))))
            assert judged == MAX_FAILURES
            with pytest.raises(LockedOut):
                await lockout.begin("sub_a", "phone")

    asyncio.run(check())


def test_successes_do_not_count_and_old_failures_expire(
    valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lockout_module, "WINDOW_SECONDS", 1)

    async def check() -> None:
        async with open_lockout(valkey.url) as lockout:
            for _ in range(20):
                await lockout.end(await lockout.begin("sub_a", "phone"), failed=False)
            for _ in range(MAX_FAILURES - 1):
                await fail(lockout, "sub_a", "phone")
            await asyncio.sleep(1.1)
            for _ in range(MAX_FAILURES - 1):
                assert not await fail(lockout, "sub_a", "phone")

    asyncio.run(check())


def test_all_counts_expire_and_those_of_a_forgotten_subject_are_deleted(valkey: RealValkey) -> None:
    async def check() -> None:
        async with open_lockout(valkey.url) as lockout:
            await lockout.begin("sub_b", "phone")  # never ended, as if its process had died
            for _ in range(MAX_FAILURES):
                await fail(lockout, "sub_a", "laptop")
            with redis.Redis.from_url(valkey.url) as client:
                keys = list(client.scan_iter("faces:*"))
                assert keys
                assert all(client.ttl(key) > 0 for key in keys)
                await lockout.forget("sub_a")
                assert not client.exists(redis_keys.face_lock("subject:sub_a"))
                assert not list(client.scan_iter("*sub_a*"))

    asyncio.run(check())


def test_without_redis_every_attempt_is_refused() -> None:
    async def check() -> None:
        async with open_lockout("unix:///nowhere") as lockout:
            with pytest.raises(Unavailable):
                await lockout.begin("sub_a", "phone")

    asyncio.run(check())


def test_a_failure_for_an_erased_subject_counts_only_for_the_device(valkey: RealValkey) -> None:
    async def check() -> None:
        async with open_lockout(valkey.url) as lockout:
            attempt = await lockout.begin("sub_a", "phone")
            await lockout.forget("sub_a")
            await lockout.end(attempt, failed=True)

    asyncio.run(check())
    with redis.Redis.from_url(valkey.url) as client:
        keys = sorted(client.keys("faces:*"))
        assert keys == [redis_keys.face_failures("device:phone").encode()]
