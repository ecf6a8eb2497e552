"""Challenges in a real Valkey: random, bound to a purpose, used once, expiring and limited."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest
import redis
from redis.asyncio import Redis

from contracts.errors import (
    Conflict,
    DeadlineExceeded,
    IdempotencyConflict,
    InternalError,
    InvalidVideo,
    NoFace,
    NoWorker,
    OpsinError,
    QueueFull,
    RateLimited,
    Unavailable,
)
from contracts.faces.enrollments import AnsweredChallenge
from contracts.faces.liveness import ACTIONS, CHALLENGE_SECONDS, Challenge, NewChallenge, Purpose
from contracts.queue import redis_keys
from service.faces.challenges import (
    MAX_DRAWS,
    MAX_PER_CLIENT,
    MAX_PER_SUBJECT,
    USED_SECONDS,
    Challenges,
    JobAnswer,
)
from tests.valkey import RealValkey

T = TypeVar("T")
NOW = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
ADA = "sub_ada"
Use = Callable[[Challenges], Awaitable[T]]


def run(valkey: RealValkey, use: Use[T]) -> T:
    async def with_client() -> T:
        async with Redis.from_url(valkey.url) as client:
            return await use(Challenges(client, lambda: NOW))

    return asyncio.run(with_client())


def new_challenge(
    subject: str = ADA, purpose: Purpose = "login", device: str | None = "phone"
) -> NewChallenge:
    return NewChallenge(purpose=purpose, subject_id=subject, device_id=device)


async def consume(
    challenges: Challenges,
    challenge: Challenge,
    nonce: str | None = None,
    *,
    purpose: Purpose = "login",
    subject: str = ADA,
    device: str | None = "phone",
    fails: OpsinError | None = None,
) -> AnsweredChallenge:
    async with challenges.consumed(
        challenge.id,
        challenge.nonce if nonce is None else nonce,
        purpose=purpose,
        subject_id=subject,
        device_id=device,
    ) as answered:
        if fails:
            raise fails
    return answered


def test_a_challenge_can_be_consumed_once(valkey: RealValkey) -> None:
    async def use(challenges: Challenges) -> None:
        created = await challenges.create(new_challenge(), "client")
        assert len(created.actions) == len(set(created.actions)) == 3
        assert set(created.actions) <= set(ACTIONS)
        assert created.expires_at == NOW + timedelta(seconds=90)
        assert (created.max_seconds, created.min_fps) == (12, 10)
        assert len(created.nonce) == 22  # 128 bits in base64
        assert await consume(challenges, created) == AnsweredChallenge(
            id=created.id, actions=created.actions
        )
        with pytest.raises(Conflict):
            await consume(challenges, created)

    run(valkey, use)


@pytest.mark.parametrize(
    ("error", "is_valid_again"),
    [
        (NoWorker("none"), True),
        (QueueFull("full"), True),
        (DeadlineExceeded("late"), True),
        (InternalError("broken"), True),
        (InvalidVideo("cut off"), False),
        (NoFace("none"), False),
    ],
)
def test_a_challenge_survives_a_fault_of_the_service(
    valkey: RealValkey, error: OpsinError, is_valid_again: bool
) -> None:
    async def use(challenges: Challenges) -> None:
        created = await challenges.create(new_challenge(), "client")
        key = redis_keys.challenge(created.id)
        with redis.Redis.from_url(valkey.url) as client:
            client.expire(key, 40)
            with pytest.raises(type(error)):
                await consume(challenges, created, fails=error)
            left = client.ttl(key)
        if is_valid_again:
            assert 35 <= left <= 40, "it expires when it would have expired"
            await consume(challenges, created)
        with pytest.raises(Conflict):
            await consume(challenges, created)

    run(valkey, use)


def test_one_of_several_simultaneous_answers_is_accepted(valkey: RealValkey) -> None:
    async def use(challenges: Challenges) -> None:
        for _ in range(5):
            created = await challenges.create(new_challenge(), "client")
            both = await asyncio.gather(
                *(consume(challenges, created) for _ in range(4)), return_exceptions=True
            )
            assert Counter(map(type, both)) == {AnsweredChallenge: 1, Conflict: 3}

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
def test_a_wrong_answer_uses_up_the_challenge(valkey: RealValkey, wrong: dict[str, str]) -> None:
    async def use(challenges: Challenges) -> None:
        created = await challenges.create(new_challenge(), "client")
        with pytest.raises(Conflict) as refused:
            await consume(challenges, created, **wrong)  # type: ignore[arg-type]
        with pytest.raises(Conflict) as again:
            await consume(challenges, created)
        # The error does not say what was wrong.
        assert refused.value.detail == again.value.detail

    run(valkey, use)


def test_an_expired_or_invented_challenge_is_unknown(valkey: RealValkey) -> None:
    async def use(challenges: Challenges) -> None:
        created = await challenges.create(new_challenge(), "client")
        with redis.Redis.from_url(valkey.url) as client:
            assert 0 < client.ttl(redis_keys.challenge(created.id)) <= CHALLENGE_SECONDS
            client.pexpire(redis_keys.challenge(created.id), 1)
        await asyncio.sleep(0.05)
        with pytest.raises(Conflict):
            await consume(challenges, created)
        for invented in ("ch_" + 16 * "x", "", "ch_*", "../" + created.id, created.id + "\n"):
            with pytest.raises(Conflict):
                await consume(challenges, created.model_copy(update={"id": invented}))

    run(valkey, use)


def test_redis_never_contains_a_nonce(valkey: RealValkey) -> None:
    async def use(challenges: Challenges) -> Challenge:
        return await challenges.create(new_challenge(), "10.0.0.7")

    created = run(valkey, use)
    with redis.Redis.from_url(valkey.url) as client:
        keys = client.keys("*")
        held = b"".join(keys) + b"".join(client.get(key) or b"" for key in keys)
    assert created.nonce.encode() not in held
    assert b"10.0.0.7" not in held


def test_actions_are_in_random_order(valkey: RealValkey) -> None:
    async def use(challenges: Challenges) -> list[tuple[str, ...]]:
        created = [await challenges.create(new_challenge(f"sub_{n}"), "client") for n in range(120)]
        assert len({one.nonce for one in created} | {one.id for one in created}) == 240
        return [one.actions for one in created]

    actions = run(valkey, use)
    firsts = Counter(one[0] for one in actions)
    assert set(firsts) == set(ACTIONS)
    assert len(set(actions)) > 50  # of 120 possible ones


def test_repeated_requests_get_the_same_actions(valkey: RealValkey) -> None:
    """Also from another device or client, and whether or not one was answered."""

    async def use(challenges: Challenges) -> list[Challenge]:
        created = [
            await challenges.create(new_challenge(device=f"device-{n}"), f"client-{n % 2}")
            for n in range(6)
        ]
        await consume(challenges, created[0], device="device-0")
        created.append(await challenges.create(new_challenge(), "another"))
        await challenges.create(new_challenge(purpose="enroll"), "client")
        return created

    created = run(valkey, use)
    assert len({one.actions for one in created}) == 1
    assert len({one.nonce for one in created}) == 7
    with redis.Redis.from_url(valkey.url) as client:
        asked_key = redis_keys.challenge_actions(ADA, "login")
        assert 0 < client.ttl(asked_key) <= CHALLENGE_SECONDS
        assert client.get(redis_keys.challenge_draws(ADA)) == b"2"

        async def wait_and_ask(challenges: Challenges) -> set[tuple[str, ...]]:
            seen_actions = set()
            for n in range(MAX_DRAWS - 2):
                client.delete(asked_key)  # as if it had expired
                seen_actions.add((await challenges.create(new_challenge(), f"later-{n}")).actions)
            client.delete(asked_key)
            with pytest.raises(RateLimited) as refused:
                await challenges.create(new_challenge(), "last")
            assert 0 < (refused.value.retry_after or 0) <= 3600
            return seen_actions

        assert len(run(valkey, wait_and_ask)) > 2


def test_challenges_are_limited_per_client_and_subject(valkey: RealValkey) -> None:
    async def use(challenges: Challenges) -> None:
        for _ in range(MAX_PER_SUBJECT):
            await challenges.create(new_challenge(), "client")
        with pytest.raises(RateLimited) as refused:
            await challenges.create(new_challenge(), "client")
        assert 0 < (refused.value.retry_after or 0) <= CHALLENGE_SECONDS
        # Another client may use the subject, and this client other subjects.
        await challenges.create(new_challenge(), "another")
        await challenges.create(new_challenge("sub_eve"), "client")

    run(valkey, use)
    with redis.Redis.from_url(valkey.url) as client:
        (whole,) = [key for key in client.keys("challenges:*:") if int(client.get(key)) > 5]
        client.set(whole, MAX_PER_CLIENT, keepttl=True)

    async def more(challenges: Challenges) -> None:
        with pytest.raises(RateLimited):
            await challenges.create(new_challenge("sub_new"), "client")

    run(valkey, more)


def test_a_job_that_fails_through_our_fault_gives_its_challenge_back(valkey: RealValkey) -> None:
    """The same clip for an hour, another one for the rest of the challenge's time."""
    failed: list[str] = []

    def answer(clip: str) -> JobAnswer:
        async def has_failed(challenge_id: str) -> bool:
            return challenge_id in failed

        return JobAnswer(clip, has_failed)

    async def use(challenges: Challenges) -> None:
        created = await challenges.create(new_challenge(), "client")

        async def enroll(
            clip: str, fails: OpsinError | None = None, nonce: str | None = None
        ) -> None:
            async with challenges.consumed(
                created.id,
                nonce or created.nonce,
                purpose="login",
                subject_id=ADA,
                device_id="phone",
                job=answer(clip),
            ):
                if fails:
                    raise fails
                failed.clear()  # there is a new job

        await enroll("clip")
        with pytest.raises(Conflict):
            await enroll("clip")  # the job has not failed
        failed.append(created.id)
        with pytest.raises(QueueFull):
            await enroll("clip", QueueFull("Full."))
        await enroll("another clip")
        failed.append(created.id)
        results = await asyncio.gather(
            *(enroll("another clip") for _ in range(8)), return_exceptions=True
        )
        assert sum(result is None for result in results) == 1
        failed.append(created.id)
        await asyncio.to_thread(age_used, valkey, created.id)
        with pytest.raises(Conflict):
            await enroll("yet another")  # the challenge's own time is over
        await enroll("another clip")
        failed.append(created.id)
        with pytest.raises(Conflict):
            await enroll("another clip", nonce="wrong")
        with pytest.raises(Conflict):
            await enroll("another clip")  # the wrong nonce has used it up

    run(valkey, use)


def test_a_challenge_whose_job_may_have_been_created_is_not_valid_again(
    valkey: RealValkey,
) -> None:
    """The answer to the job's COMMIT was lost."""

    async def has_failed(_challenge_id: str) -> bool:
        return False

    async def use(challenges: Challenges) -> None:
        created = await challenges.create(new_challenge(), "client")

        async def enroll(clip: str, fails: OpsinError) -> None:
            async with challenges.consumed(
                created.id,
                created.nonce,
                purpose="login",
                subject_id=ADA,
                device_id="phone",
                job=JobAnswer(clip, has_failed),
            ):
                raise fails

        error = Unavailable("away")
        for is_outcome_unknown in (False, True):
            error.is_outcome_unknown = is_outcome_unknown
            with pytest.raises(Unavailable):
                await enroll("clip", error)
        with pytest.raises(Conflict):
            await enroll("another clip", error)

    run(valkey, use)


def age_used(valkey: RealValkey, challenge_id: str) -> None:
    """Let a hundred seconds pass since a challenge was used."""
    with redis.Redis.from_url(valkey.url) as client:
        client.expire(redis_keys.used_challenge(challenge_id), USED_SECONDS - 100)


def test_without_redis_it_is_unavailable() -> None:
    async def go() -> None:
        async with Redis.from_url("redis://127.0.0.1:9") as client:
            challenges = Challenges(client, lambda: NOW)
            with pytest.raises(Unavailable):
                await challenges.create(new_challenge(), "client")
            with pytest.raises(Unavailable):
                async with challenges.consumed(
                    "ch_" + 16 * "x", "n", purpose="login", subject_id=ADA, device_id=None
                ):
                    pass

    asyncio.run(go())


def test_a_repeated_request_gets_the_same_challenge(valkey: RealValkey) -> None:
    async def use(challenges: Challenges) -> None:
        first = await challenges.create(new_challenge(), "c", key="k1")
        assert await challenges.create(new_challenge(), "c", key="k1") == first
        other = await challenges.create(new_challenge(), "c", key="k2")
        assert other.id != first.id
        with pytest.raises(IdempotencyConflict):
            await challenges.create(new_challenge(purpose="enroll"), "c", key="k1")
        assert (await consume(challenges, first)).id == first.id
        with pytest.raises(Conflict):
            await consume(challenges, first)

    run(valkey, use)


def test_simultaneous_repetitions_get_one_challenge(valkey: RealValkey) -> None:
    async def use(challenges: Challenges) -> None:
        made = await asyncio.gather(
            *(challenges.create(new_challenge(), "c", key="k1") for _ in range(6))
        )
        assert len({(challenge.id, challenge.nonce) for challenge in made}) == 1

    run(valkey, use)


def test_the_nonce_of_a_repeated_request_is_not_stored(valkey: RealValkey) -> None:
    async def use(challenges: Challenges) -> str:
        return (await challenges.create(new_challenge(), "c", key="k1")).nonce

    nonce = run(valkey, use)
    with redis.Redis.from_url(valkey.url) as client:
        stored = b"".join(client.get(name) or b"" for name in client.keys("challenge*"))
    assert stored
    assert nonce.encode() not in stored
