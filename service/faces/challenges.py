"""Liveness challenges: created for a minute and a half, and consumed by the first answer.

If the service could not judge the answer (no worker, a full queue, a deadline), the challenge is
valid again for the rest of its time: the person has learned nothing from the attempt. That includes
an enrollment whose job fails later in this way; the same clip may then be sent again for an hour.

They are stored in Redis, so that any API process can consume what another created. A challenge is
deleted by the same command that reads it, so that only one of two simultaneous answers is accepted.

The actions for a subject stay the same while a challenge is valid, no matter how often one is
requested, and are drawn only a few times an hour. A client thus cannot request challenges until one
matches a recording.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any, cast

from redis.asyncio import Redis

from contracts.errors import (
    Conflict,
    IdempotencyConflict,
    OpsinError,
    QueueFull,
    RateLimited,
    Unavailable,
)
from contracts.faces.enrollments import AnsweredChallenge
from contracts.faces.liveness import (
    ACTION_COUNT,
    ACTIONS,
    CHALLENGE_SECONDS,
    NONCE_BYTES,
    Challenge,
    NewChallenge,
    Purpose,
)
from contracts.queue import redis_keys, scripts
from service.queue.faults import redis_required

MAX_PER_CLIENT = 1000
"""Challenges per client within `CHALLENGE_SECONDS`; each takes half a kB in Redis."""
MAX_PER_SUBJECT = 10
"""Of these for one subject: more than a person needs, far fewer than guessing needs."""
MAX_DRAWS = 10
"""Draws of actions for one subject within an hour, by all clients together."""

_ANSWER_SECONDS = 24 * 3600  # that a repeated request gets the first response
USED_SECONDS = 3600
"""For how long the same clip may be sent again after its job failed through the service's fault."""

_SERVER_ERROR = 500
_ID = re.compile(r"ch_[A-Za-z0-9_-]{16}")


class Challenges:
    """All challenges.

    Args:
        client: A connection that returns bytes.
        clock: Returns an aware time.
        random: Draws the actions; defaults to the system's random numbers.
    """

    def __init__(
        self, client: Redis, clock: Callable[[], datetime], random: Random | None = None
    ) -> None:
        self._client = client
        self._clock = clock
        self._random = random or secrets.SystemRandom()
        self._create = client.register_script(scripts.CREATE_CHALLENGE)
        self._delete_unchanged = client.register_script(scripts.DELETE_UNCHANGED)
        self._take = client.register_script(scripts.TAKE_CHALLENGE)

    async def create(
        self, new: NewChallenge, client: str, device: str = "", *, key: str | None = None
    ) -> Challenge:
        """Create a challenge.

        Args:
            new: What it is for.
            client: A name that distinguishes clients.
            device: Of a client who matched as the subject before; nobody else uses up its draws.
            key: The client's `Idempotency-Key`, if it sent one.

        Raises:
            IdempotencyConflict: The key was used for another request.
            RateLimited: The client requested too many recently, or too many different ones were
                drawn for the subject.
            Unavailable: Redis does not answer.
        """
        if key is None:
            return await self._create_new(new, client, device, secrets.token_urlsafe(NONCE_BYTES))
        if (first := await self._first(key, new)) is not None:
            return first
        salt = secrets.token_urlsafe(NONCE_BYTES)
        made = await self._create_new(new, client, device, _derived_nonce(key, salt))
        kept = made.model_dump(mode="json", exclude={"nonce"}) | {"salt": salt}
        answer = json.dumps({"digest": _digest(new), "challenge": kept})
        name = redis_keys.challenge_answer(hashlib.sha256(key.encode()).hexdigest())
        with redis_required():
            is_first = await self._client.set(name, answer, nx=True, ex=_ANSWER_SECONDS)
        return made if is_first else (await self._first(key, new) or made)

    async def _first(self, key: str, new: NewChallenge) -> Challenge | None:
        """What an earlier request with that key got; its nonce is not stored but derived."""
        name = redis_keys.challenge_answer(hashlib.sha256(key.encode()).hexdigest())
        with redis_required():
            raw = await self._client.get(name)
        if raw is None:
            return None
        kept: dict[str, Any] = json.loads(raw)
        if kept["digest"] != _digest(new):
            raise IdempotencyConflict(
                "This Idempotency-Key was sent with another request in the last 24 hours. "
                "Use a new key for a new request."
            )
        challenge = kept["challenge"]
        return Challenge(nonce=_derived_nonce(key, challenge.pop("salt")), **challenge)

    async def _create_new(
        self, new: NewChallenge, client: str, device: str, nonce: str
    ) -> Challenge:
        challenge_id = f"ch_{secrets.token_urlsafe(12)}"
        record = {
            "nonce": _nonce_hash(nonce),
            "for": _binding(new.purpose, new.subject_id, new.device_id),
        }
        draw = json.dumps(self._random.sample(ACTIONS, ACTION_COUNT))
        limits = (MAX_PER_CLIENT, MAX_PER_SUBJECT, MAX_DRAWS)
        keys = _keys(challenge_id, client, new, device)
        with redis_required():
            wait, actions = cast(
                tuple[int, bytes],
                await self._create(keys, [json.dumps(record), CHALLENGE_SECONDS, *limits, draw]),
            )
        if wait:
            raise RateLimited(
                "Too many challenges were requested. Answer one, or wait.", retry_after=wait
            )
        return Challenge(
            id=challenge_id,
            nonce=nonce,
            actions=json.loads(actions),
            expires_at=self._clock() + timedelta(seconds=CHALLENGE_SECONDS),
        )

    @asynccontextmanager
    async def consumed(
        self,
        challenge_id: str,
        nonce: str,
        *,
        purpose: Purpose,
        subject_id: str,
        device_id: str | None,
        job: "JobAnswer | None" = None,
    ) -> AsyncIterator[AnsweredChallenge]:
        """Use up a challenge while its clip is judged.

        It is valid again, for the rest of its time, if this ends with an error of the service after
        which there is no job, or without a job is cancelled: by the deadline, or because the client
        hung up.

        Args:
            job: If a job judges the clip later: should it fail through the service's fault, the
                challenge is valid again too, and for the same clip longer than for another.

        Raises:
            Conflict: The challenge is unknown, expired or used, was created for something else, or
                the nonce is wrong. In each case it cannot be used again.
            Unavailable: Redis does not answer; the challenge may have been used up.
        """
        taken = await self._take_challenge(challenge_id)
        if taken is None and job is not None:
            taken = await self._take_again(challenge_id, job)
        record: dict[str, Any] = json.loads(taken.challenge) if taken else {}
        sent = {"nonce": _nonce_hash(nonce), "for": _binding(purpose, subject_id, device_id)}
        # All are compared, in constant time, and the error does not say which one was wrong.
        matches = [
            hmac.compare_digest(record.get(field, ""), value) for field, value in sent.items()
        ]
        if taken is None or not all(matches):
            raise Conflict(
                "The challenge is unknown, expired, used, or for something else. Ask for a new "
                "one with POST /v1/faces/challenges and record a new clip."
            )
        try:
            yield AnsweredChallenge(id=challenge_id, actions=record["actions"])
        except OpsinError as error:
            if job is not None and error.is_outcome_unknown:
                await self._remember(challenge_id, taken, job)  # the job may have been created
            else:
                await self._give_back_after(error, taken)
            raise
        except asyncio.CancelledError:
            if job is None:  # otherwise the job may have been created
                await self._give_back(taken)
            raise
        if job is not None:
            await self._remember(challenge_id, taken, job)

    async def passed(self, subject_id: str, device: str) -> None:
        """Forget how often actions were drawn for a subject who has passed a challenge.

        The limit is against those who wait for actions that they have recorded.
        """
        with suppress(Unavailable), redis_required():
            draws = redis_keys.challenge_draws
            await self._client.delete(draws(subject_id), draws(subject_id, device))

    async def _take_challenge(self, challenge_id: str) -> "_Taken | None":
        if not _ID.fullmatch(challenge_id):
            return None
        key, now = redis_keys.challenge(challenge_id), time.monotonic()
        with redis_required():
            raw, left_ms = await self._take([key])
        return None if raw is None else _Taken(key, raw, raw, now + left_ms / 1000, left_ms)

    async def _take_again(self, challenge_id: str, job: "JobAnswer") -> "_Taken | None":
        """Take a challenge whose job failed through the service's fault."""
        if not _ID.fullmatch(challenge_id):
            return None
        key, now = redis_keys.used_challenge(challenge_id), time.monotonic()
        with redis_required():
            raw, left_ms = await self._client.get(key), await self._client.pttl(key)
        if raw is None:
            return None
        used = json.loads(raw)
        since_ms = USED_SECONDS * 1000 - left_ms
        is_same = hmac.compare_digest(used["clip"], job.clip)
        if not (is_same or since_ms < used["left_ms"]) or not await job.failed(challenge_id):
            return None
        with redis_required():
            if not await self._delete_unchanged([key], [raw]):
                return None  # another request was faster
        remaining = max(0, used["left_ms"] - since_ms)
        return _Taken(
            key, cast(bytes, raw), used["challenge"].encode(), now + left_ms / 1000, remaining
        )

    async def _give_back_after(self, error: OpsinError, taken: "_Taken") -> None:
        if isinstance(error, QueueFull) or error.meaning.status >= _SERVER_ERROR:
            await self._give_back(taken)

    async def _give_back(self, taken: "_Taken") -> None:
        left_ms = int((taken.expires_at - time.monotonic()) * 1000)
        if left_ms > 0:
            with suppress(Unavailable), redis_required():
                await self._client.set(taken.key, taken.stored, px=left_ms)

    async def _remember(self, challenge_id: str, taken: "_Taken", job: "JobAnswer") -> None:
        used = {
            "challenge": taken.challenge.decode(),
            "clip": job.clip,
            "left_ms": taken.left_ms,
            "use": secrets.token_hex(8),  # so that each use has another value
        }
        key = redis_keys.used_challenge(challenge_id)
        with suppress(Unavailable), redis_required():
            await self._client.set(key, json.dumps(used), ex=USED_SECONDS)


@dataclass(frozen=True, slots=True)
class JobAnswer:
    """A clip that a job judges.

    Attributes:
        clip: Keyed digest of the request.
        failed: Whether the job that answered a challenge, by its id, failed through the service's
            fault.
    """

    clip: str
    failed: Callable[[str], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class _Taken:
    """A challenge that was removed from Redis, and how to put it back.

    Attributes:
        key: Where it was.
        stored: What was there.
        challenge: The challenge as JSON.
        expires_at: When the key would have expired, on the monotonic clock.
        left_ms: For how long another clip may answer it.
    """

    key: str
    stored: bytes
    challenge: bytes
    expires_at: float
    left_ms: int


def _keys(challenge_id: str, client: str, new: NewChallenge, device: str) -> Sequence[str]:
    """Keys of `scripts.CREATE_CHALLENGE`."""
    client_hash = hashlib.sha256(client.encode()).hexdigest()[:24]
    return [
        redis_keys.challenge(challenge_id),
        redis_keys.challenges_issued(client_hash),
        redis_keys.challenges_issued(client_hash, new.subject_id),
        # Not by device, because the client can choose any device id.
        redis_keys.challenge_actions(new.subject_id, new.purpose),
        redis_keys.challenge_draws(new.subject_id, device),
    ]


def _digest(new: NewChallenge) -> str:
    return hashlib.sha256(new.model_dump_json().encode()).hexdigest()


def _derived_nonce(key: str, salt: str) -> str:
    """A nonce for who has the key, which is not stored, and not for a reader of Redis."""
    digest = hmac.digest(key.encode(), salt.encode(), "sha256")
    return base64.urlsafe_b64encode(digest[:NONCE_BYTES]).rstrip(b"=").decode()


def _nonce_hash(nonce: str) -> str:
    """What is stored of a nonce, so that a reader of Redis cannot answer a challenge."""
    return hashlib.sha256(nonce.encode()).hexdigest()


def _binding(purpose: Purpose, subject_id: str, device_id: str | None) -> str:
    """What a challenge was created for, as one value."""
    return hashlib.sha256(json.dumps([purpose, subject_id, device_id]).encode()).hexdigest()
