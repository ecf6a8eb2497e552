"""Lockout of devices, addresses and subjects after failures, in a real Valkey."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import redis
from redis.asyncio import Redis

from contracts.errors import LockedOut, Unavailable
from contracts.faces.consent import MAX_FAILURES as MAX_FAILURES_IN_A_ROW
from contracts.queue import redis_keys
from service.faces.locks import lockout as lockout_module
from service.faces.locks.lockout import (
    ADDRESS_FAILURES,
    LOCK_SECONDS,
    MAX_FAILURES,
    SUBJECT_FAILURES,
    UNUSABLE_ATTEMPTS,
    Attempt,
    Caller,
    Lockout,
    Outcome,
)
from tests.valkey import RealValkey

PHONE, LAPTOP = Caller("phone", "home"), Caller("laptop", "home")
ELSEWHERE = Caller("phone", "elsewhere")


@asynccontextmanager
async def open_lockout(
    url: str, address_failures: int = ADDRESS_FAILURES
) -> AsyncIterator[Lockout]:
    async with Redis.from_url(url) as client:
        yield Lockout(client, address_failures)


async def attempt(
    lockout: Lockout, subject_id: str, caller: Caller, outcome: Outcome = "failed"
) -> bool:
    return await lockout.end(await lockout.begin(subject_id, caller), outcome)


async def wait_of(lockout: Lockout, subject_id: str, caller: Caller) -> float:
    """How long the caller has to wait."""
    with pytest.raises(LockedOut, match="Try again in") as error:
        await lockout.begin(subject_id, caller)
    return error.value.retry_after or 0


def run(valkey: RealValkey, check: Callable[[Lockout], Awaitable[None]]) -> None:
    async def work() -> None:
        async with open_lockout(valkey.url) as lockout:
            await check(lockout)

    asyncio.run(work())


def test_the_fifth_failure_locks_the_device_for_half_an_hour(valkey: RealValkey) -> None:
    async def check(lockout: Lockout) -> None:
        locked = [await attempt(lockout, "sub_a", PHONE) for _ in range(MAX_FAILURES)]
        assert locked == [False] * 4 + [True]
        for subject_id in ("sub_a", "sub_b"):
            assert LOCK_SECONDS - 5 < await wait_of(lockout, subject_id, PHONE) <= LOCK_SECONDS
        async with open_lockout(valkey.url) as another:  # another process, or after a restart
            assert await wait_of(another, "sub_a", PHONE)

    run(valkey, check)


def test_who_knows_an_id_does_not_lock_the_person_out(valkey: RealValkey) -> None:
    async def check(lockout: Lockout) -> None:
        for _ in range(MAX_FAILURES):
            await attempt(lockout, "sub_a", Caller("thief", "away"))
        for caller in (PHONE, ELSEWHERE, Caller("", "home")):
            await attempt(lockout, "sub_a", caller, "matched")

    run(valkey, check)


def test_a_device_id_that_another_sends_locks_nobody_else(valkey: RealValkey) -> None:
    """The device of one is named like the address or the device of another."""

    async def check(lockout: Lockout) -> None:
        for name in ("home", "phone"):
            for _ in range(MAX_FAILURES):
                await attempt(lockout, "sub_a", Caller(name, f"away-{name}"))
        for caller in (Caller("", "home"), PHONE):
            await attempt(lockout, "sub_b", caller, "matched")

    run(valkey, check)


def test_who_names_no_device_does_not_go_on_where_a_device_was_locked(valkey: RealValkey) -> None:
    async def check(lockout: Lockout) -> None:
        for _ in range(MAX_FAILURES):
            await attempt(lockout, "sub_a", PHONE)
        nameless = Caller("", "home")
        assert LOCK_SECONDS - 5 < await wait_of(lockout, "sub_a", nameless) <= LOCK_SECONDS
        await attempt(lockout, "sub_b", nameless, "matched")
        await attempt(lockout, "sub_a", LAPTOP, "matched")
        await attempt(lockout, "sub_a", Caller("", "elsewhere"), "matched")

    run(valkey, check)


def test_an_address_that_names_a_new_device_each_time_has_to_wait(valkey: RealValkey) -> None:
    async def check(lockout: Lockout) -> None:
        for number in range(ADDRESS_FAILURES):
            await attempt(lockout, f"sub_{number % 3}", Caller(f"device-{number}", "home"))
        first = await wait_of(lockout, "sub_9", Caller("yet-another", "home"))
        await attempt(lockout, "sub_9", ELSEWHERE, "matched")
        assert 50 < first <= 60
        with redis.Redis.from_url(valkey.url) as client:
            client.delete(redis_keys.face_lock("address:home"))
        for number in range(ADDRESS_FAILURES):
            await attempt(lockout, f"sub_{number}", Caller(f"other-{number}", "home"))
        assert 110 < await wait_of(lockout, "sub_9", LAPTOP) <= 120

    run(valkey, check)


def test_a_back_end_can_lift_the_limit_of_its_address(valkey: RealValkey) -> None:
    async def check() -> None:
        async with open_lockout(valkey.url, address_failures=0) as lockout:
            for number in range(3 * ADDRESS_FAILURES):
                await attempt(lockout, f"sub_{number}", Caller(f"device-{number}", "home"))
            for number in range(UNUSABLE_ATTEMPTS + 1):
                caller = Caller(f"device-{number}", "home")
                await attempt(lockout, f"sub_{number}", caller, "unusable")
        async with open_lockout(valkey.url, address_failures=2 * ADDRESS_FAILURES) as lockout:
            for number in range(UNUSABLE_ATTEMPTS + 1):
                await attempt(lockout, "sub_a", Caller(f"{number}", "work"), "unusable")

    asyncio.run(check())


def test_failures_from_many_places_make_a_subject_wait_ever_longer(valkey: RealValkey) -> None:
    async def check(lockout: Lockout) -> None:
        await attempt(lockout, "sub_a", PHONE, "matched")
        waits = []
        with redis.Redis.from_url(valkey.url) as client:
            for number in range(SUBJECT_FAILURES + 8):
                await attempt(lockout, "sub_a", Caller("bot", f"address-{number}"))
                if number >= SUBJECT_FAILURES - 1:
                    waits.append(await wait_of(lockout, "sub_a", LAPTOP))
                    client.delete(redis_keys.face_lock("subject:sub_a"))
            await attempt(lockout, "sub_a", Caller("bot", "one-more"))
        assert [round(wait, -1) for wait in waits[:3]] == [30, 60, 120]
        assert LOCK_SECONDS - 5 < waits[-1] <= LOCK_SECONDS
        # The person's own phone still may, also from another network, and a signed login.
        await attempt(lockout, "sub_a", PHONE, "matched")
        await attempt(lockout, "sub_a", ELSEWHERE, "matched")
        await lockout.end(await lockout.begin("sub_a", LAPTOP, signed=True), "neither")
        assert await lockout.locked(["sub_a", "sub_b"]) == {"sub_a"}

    run(valkey, check)


def test_attempts_in_progress_take_no_place_of_the_persons_devices(valkey: RealValkey) -> None:
    async def check(lockout: Lockout) -> None:
        await attempt(lockout, "sub_a", PHONE, "matched")
        for number in range(30):  # none of them ends
            with suppress(LockedOut):
                await lockout.begin("sub_a", Caller("bot", f"address-{number % 10}"))
        for number in range(30):
            with suppress(LockedOut):
                await lockout.begin("sub_a", Caller(f"bot-{number}", "one-address"))
        for _ in range(20):
            await attempt(lockout, "sub_a", PHONE, "matched")
        await lockout.end(await lockout.begin("sub_a", LAPTOP, signed=True), "neither")

    run(valkey, check)


def test_a_burst_from_one_address_fails_a_few_times_only(valkey: RealValkey) -> None:
    """Fifty failures in a row would disable the face, also for the person's own devices."""

    async def begun(lockout: Lockout, device: str, address: str = "away") -> list[Attempt]:
        attempts = []
        for number in range(60):
            with suppress(LockedOut):
                attempts.append(await lockout.begin("sub_a", Caller(f"{device}{number}", address)))
        return attempts

    async def check(lockout: Lockout) -> None:
        await attempt(lockout, "sub_a", Caller("phone", "away"), "matched")
        attempts = await begun(lockout, "bot")
        assert len(attempts) == 5
        assert len(await begun(lockout, "bot", "elsewhere")) == 5
        await lockout.begin("sub_b", Caller("bot", "away"))  # somebody else
        await lockout.begin("sub_a", Caller("phone", "away"))  # the person
        for one in attempts:
            await lockout.end(one, "failed")
        attempts = await begun(lockout, "more")
        assert len(attempts) == 5, "places are free again; it is failures that lock"
        for one in attempts:
            await lockout.end(one, "failed")
        assert not await begun(lockout, "yet-more"), "the address has failed ten times"

    run(valkey, check)


def test_a_burst_from_everywhere_does_not_disable_a_face(valkey: RealValkey) -> None:
    connections = asyncio.Semaphore(16)

    async def login(lockout: Lockout, number: int) -> bool:
        for _ in range(50):
            try:
                async with connections:
                    begun = await lockout.begin("sub_a", Caller("bot", f"address-{number}"))
            except LockedOut as locked:
                if (locked.retry_after or 0) > 1:
                    return False
                await asyncio.sleep(0.02)
                continue
            await asyncio.sleep(0.1)
            async with connections:
                await lockout.end(begun, "failed")
            return True
        return False

    async def check(lockout: Lockout) -> None:
        await attempt(lockout, "sub_a", PHONE, "matched")
        failures = sum(await asyncio.gather(*(login(lockout, number) for number in range(128))))
        assert SUBJECT_FAILURES <= failures < MAX_FAILURES_IN_A_ROW
        await attempt(lockout, "sub_a", PHONE, "matched")

    run(valkey, check)


def test_attempts_that_cannot_be_judged_have_a_limit_of_their_own(valkey: RealValkey) -> None:
    async def check(lockout: Lockout) -> None:
        locked = [
            await attempt(lockout, "sub_a", Caller(f"{number}", "home"), "unusable")
            for number in range(UNUSABLE_ATTEMPTS)
        ]
        assert locked == [False] * (UNUSABLE_ATTEMPTS - 1) + [True]
        assert 50 < await wait_of(lockout, "sub_b", PHONE) <= 60
        with pytest.raises(LockedOut):
            await lockout.require_open(PHONE)
        await lockout.require_open(ELSEWHERE)

    run(valkey, check)


@pytest.mark.parametrize(
    ("device", "most"), [("phone", MAX_FAILURES), (None, ADDRESS_FAILURES + 54)]
)
def test_simultaneous_attempts_do_not_exceed_the_limit(
    valkey: RealValkey, device: str | None, most: int
) -> None:
    async def begin(lockout: Lockout, number: int) -> Attempt | None:
        caller = Caller(device or f"device-{number}", "home")
        try:
            return await lockout.begin(f"sub_{number}", caller)
        except LockedOut:
            return None

    async def end(lockout: Lockout, begun: Attempt | None) -> bool:
        if begun is not None:
            await lockout.end(begun, "failed")
        return begun is not None

    async def check(lockout: Lockout) -> None:
        begun = await asyncio.gather(*(begin(lockout, number) for number in range(100)))
        judged = await asyncio.gather(*(end(lockout, one) for one in begun))
        assert sum(judged) == most
        assert await wait_of(lockout, "sub_a", Caller(device or "new", "home"))

    run(valkey, check)


def test_successes_do_not_count_and_old_failures_expire(
    valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lockout_module, "WINDOW_SECONDS", 1)

    async def check(lockout: Lockout) -> None:
        for _ in range(20):
            await attempt(lockout, "sub_a", PHONE, "matched")
        for _ in range(MAX_FAILURES - 1):
            await attempt(lockout, "sub_a", PHONE)
        await asyncio.sleep(1.1)
        for _ in range(MAX_FAILURES - 1):
            assert not await attempt(lockout, "sub_a", PHONE)

    run(valkey, check)


def test_all_counts_expire_and_those_of_a_forgotten_subject_are_deleted(valkey: RealValkey) -> None:
    async def check(lockout: Lockout) -> None:
        await lockout.begin("sub_b", PHONE)  # never ended, as if its process had died
        await attempt(lockout, "sub_a", PHONE, "matched")
        for number in range(SUBJECT_FAILURES):
            await attempt(lockout, "sub_a", Caller("bot", f"address-{number}"))
        with redis.Redis.from_url(valkey.url) as client:
            keys = list(client.scan_iter("faces:*"))
            assert redis_keys.face_lock("subject:sub_a").encode() in keys
            assert redis_keys.face_devices("sub_a").encode() in keys
            assert all(client.ttl(key) > 0 for key in keys)
            await lockout.forget("sub_a")
            assert not list(client.scan_iter("*sub_a*"))

    run(valkey, check)


@pytest.mark.parametrize("script", ["_begin", "_end"])
def test_callers_whose_time_ends_meanwhile_keep_no_place(
    valkey: RealValkey, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """Redis has done it, or does it later, and nobody waits for its answer."""

    async def check(lockout: Lockout) -> None:
        run_script, is_slow = getattr(lockout, script), True

        async def slow(**options: Any) -> object:
            if is_slow and script == "_end":
                await asyncio.sleep(0.05)
            answer = await run_script(**options)
            if is_slow and script == "_begin":
                await asyncio.sleep(0.05)
            return answer

        monkeypatch.setattr(lockout, script, slow)
        for _ in range(2 * MAX_FAILURES):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(attempt(lockout, "sub_a", PHONE, "neither"), 0.02)
            await lockout._running.ended()
        is_slow = False
        async with open_lockout(valkey.url) as another:
            assert not await another._client.keys("*attempts*")
            await attempt(another, "sub_a", PHONE, "matched")

    run(valkey, check)


def test_a_failure_counts_although_the_clients_time_ends_meanwhile(
    valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(lockout: Lockout) -> None:
        end = lockout._end

        async def slow(**options: Any) -> object:
            await asyncio.sleep(0.05)
            return await end(**options)

        monkeypatch.setattr(lockout, "_end", slow)
        for _ in range(MAX_FAILURES):
            begun = await lockout.begin("sub_a", PHONE)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(lockout.end(begun, "failed"), 0.02)
        await lockout._running.ended()
        assert LOCK_SECONDS - 5 < await wait_of(lockout, "sub_a", PHONE) <= LOCK_SECONDS

    run(valkey, check)


def test_without_redis_every_attempt_is_refused() -> None:
    async def check() -> None:
        async with open_lockout("unix:///nowhere") as lockout:
            with pytest.raises(Unavailable):
                await lockout.begin("sub_a", PHONE)
            with pytest.raises(Unavailable):
                await lockout.require_open(PHONE)

    asyncio.run(check())


@pytest.mark.parametrize("outcome", ["failed", "matched"])
def test_nothing_is_kept_about_a_subject_that_was_erased_meanwhile(
    valkey: RealValkey, outcome: Outcome
) -> None:
    async def check(lockout: Lockout) -> None:
        begun = await lockout.begin("sub_a", PHONE)
        await lockout.forget("sub_a")
        await lockout.end(begun, outcome)

    run(valkey, check)
    with redis.Redis.from_url(valkey.url) as client:
        keys = sorted(key.decode() for key in client.keys("faces:*"))
    parties = ("address:home", "device:phone@home") if outcome == "failed" else ()
    assert keys == [redis_keys.face_failures(party) for party in parties]
