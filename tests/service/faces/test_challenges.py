"""Challenges in a real Valkey: random, bound, used once, forgotten in time, few."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest
import redis
from redis.asyncio import Redis

from contracts.errors import Conflict, RateLimited, Unavailable
from contracts.faces.liveness import ACTIONS, CHALLENGE_SECONDS, Challenge, NewChallenge, Purpose
from contracts.queue import redis_keys
from service.faces.challenges import MOST_A_CLIENT, MOST_A_SUBJECT, MOST_DRAWN, Challenges, Taken
from tests.valkey import RealValkey

T = TypeVar("T")
NOW = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
ADA = "sub_ada"
Use = Callable[[Challenges], Awaitable[T]]


def run(valkey: RealValkey, use: Use[T]) -> T:
    async def go() -> T:
        async with Redis.from_url(valkey.url) as client:
            return await use(Challenges(client, lambda: NOW))

    return asyncio.run(go())


def asked(
    subject: str = ADA, purpose: Purpose = "login", device: str | None = "phone"
) -> NewChallenge:
    return NewChallenge(purpose=purpose, subject_id=subject, device_id=device)


async def take(
    challenges: Challenges,
    challenge: Challenge,
    nonce: str | None = None,
    *,
    purpose: Purpose = "login",
    subject: str = ADA,
    device: str | None = "phone",
) -> Taken:
    return await challenges.take(
        challenge.id,
        challenge.nonce if nonce is None else nonce,
        purpose=purpose,
        subject_id=subject,
        device_id=device,
    )


def test_it_is_taken_once(valkey: RealValkey) -> None:
    async def use(challenges: Challenges) -> None:
        made = await challenges.create(asked(), "client")
        assert len(made.actions) == len(set(made.actions)) == 3
        assert set(made.actions) <= set(ACTIONS)
        assert made.expires_at == NOW + timedelta(seconds=90)
        assert (made.max_seconds, made.min_fps) == (12, 10)
        assert len(made.nonce) == 22  # 128 bits in base64
        assert await take(challenges, made) == Taken(made.id, made.actions)
        with pytest.raises(Conflict):
            await take(challenges, made)

    run(valkey, use)


def test_of_two_at_once_one_is_refused(valkey: RealValkey) -> None:
    async def use(challenges: Challenges) -> None:
        for _ in range(5):
            made = await challenges.create(asked(), "client")
            both = await asyncio.gather(
                *(take(challenges, made) for _ in range(4)), return_exceptions=True
            )
            assert Counter(map(type, both)) == {Taken: 1, Conflict: 3}

    run(valkey, use)


@pytest.mark.parametrize(
    "wrong",
    [
        {"nonce": "another"},
        {"nonce": ""},
        {"purpose": "enroll"},
        {"subject": "sub_eve"},
        {"device": "another"},
        {"device": None},
    ],
)
def test_a_wrong_answer_uses_it_up(valkey: RealValkey, wrong: dict[str, str]) -> None:
    async def use(challenges: Challenges) -> None:
        made = await challenges.create(asked(), "client")
        with pytest.raises(Conflict) as refused:
            await take(challenges, made, **wrong)  # type: ignore[arg-type]
        with pytest.raises(Conflict) as again:
            await take(challenges, made)
        # Nothing tells a thief how near he was.
        assert refused.value.detail == again.value.detail

    run(valkey, use)


def test_an_expired_or_invented_one_is_unknown(valkey: RealValkey) -> None:
    async def use(challenges: Challenges) -> None:
        made = await challenges.create(asked(), "client")
        with redis.Redis.from_url(valkey.url) as client:
            assert 0 < client.ttl(redis_keys.challenge(made.id)) <= CHALLENGE_SECONDS
            client.pexpire(redis_keys.challenge(made.id), 1)
        await asyncio.sleep(0.05)
        with pytest.raises(Conflict):
            await take(challenges, made)
        for invented in ("ch_" + 16 * "x", "", "ch_*", "../" + made.id, made.id + "\n"):
            with pytest.raises(Conflict):
                await take(challenges, made.model_copy(update={"id": invented}))

    run(valkey, use)


def test_redis_never_holds_a_nonce(valkey: RealValkey) -> None:
    async def use(challenges: Challenges) -> Challenge:
        return await challenges.create(asked(), "10.0.0.7")

    made = run(valkey, use)
    with redis.Redis.from_url(valkey.url) as client:
        keys = client.keys("*")
        held = b"".join(keys) + b"".join(client.get(key) or b"" for key in keys)
    assert made.nonce.encode() not in held
    assert b"10.0.0.7" not in held


def test_actions_come_in_any_order(valkey: RealValkey) -> None:
    async def use(challenges: Challenges) -> list[tuple[str, ...]]:
        made = [await challenges.create(asked(f"sub_{n}"), "client") for n in range(120)]
        assert len({one.nonce for one in made} | {one.id for one in made}) == 240
        return [one.actions for one in made]

    actions = run(valkey, use)
    firsts = Counter(one[0] for one in actions)
    assert set(firsts) == set(ACTIONS)
    assert len(set(actions)) > 50  # of 120 there are


def test_nobody_picks_a_challenge(valkey: RealValkey) -> None:
    """Whoever asks again, as another device or client, answered or not, is asked the same."""

    async def use(challenges: Challenges) -> list[Challenge]:
        made = [
            await challenges.create(asked(device=f"device-{n}"), f"client-{n % 2}")
            for n in range(6)
        ]
        await take(challenges, made[0], device="device-0")
        made.append(await challenges.create(asked(), "another"))
        await challenges.create(asked(purpose="enroll"), "client")
        return made

    made = run(valkey, use)
    assert len({one.actions for one in made}) == 1
    assert len({one.nonce for one in made}) == 7
    with redis.Redis.from_url(valkey.url) as client:
        asked_key = redis_keys.challenge_asked(ADA, "login")
        assert 0 < client.ttl(asked_key) <= CHALLENGE_SECONDS
        assert client.get(redis_keys.challenges_drawn(ADA)) == b"2"

        async def wait_and_ask(challenges: Challenges) -> set[tuple[str, ...]]:
            drawn = set()
            for n in range(MOST_DRAWN - 2):
                client.delete(asked_key)  # as when its time is over
                drawn.add((await challenges.create(asked(), f"later-{n}")).actions)
            client.delete(asked_key)
            with pytest.raises(RateLimited) as refused:
                await challenges.create(asked(), "last")
            assert 0 < (refused.value.retry_after or 0) <= 3600
            return drawn

        assert len(run(valkey, wait_and_ask)) > 2


def test_nobody_gets_them_without_end(valkey: RealValkey) -> None:
    async def use(challenges: Challenges) -> None:
        for _ in range(MOST_A_SUBJECT):
            await challenges.create(asked(), "client")
        with pytest.raises(RateLimited) as refused:
            await challenges.create(asked(), "client")
        assert 0 < (refused.value.retry_after or 0) <= CHALLENGE_SECONDS
        # Another client is not kept from the subject, nor this one from others.
        await challenges.create(asked(), "another")
        await challenges.create(asked("sub_eve"), "client")

    run(valkey, use)
    with redis.Redis.from_url(valkey.url) as client:
        (whole,) = [key for key in client.keys("challenges:*:") if int(client.get(key)) > 5]
        client.set(whole, MOST_A_CLIENT, keepttl=True)

    async def more(challenges: Challenges) -> None:
        with pytest.raises(RateLimited):
            await challenges.create(asked("sub_new"), "client")

    run(valkey, more)


def test_without_redis_it_is_said() -> None:
    async def go() -> None:
        async with Redis.from_url("redis://127.0.0.1:9") as client:
            challenges = Challenges(client, lambda: NOW)
            with pytest.raises(Unavailable):
                await challenges.create(asked(), "client")
            with pytest.raises(Unavailable):
                await challenges.take(
                    "ch_" + 16 * "x", "n", purpose="login", subject_id=ADA, device_id=None
                )

    asyncio.run(go())
