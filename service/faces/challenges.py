"""Liveness challenges: made, kept for a minute and a half, and taken once, well or badly answered.

They lie in Redis, so that any API process may take what another has made. A challenge is removed by
the very command that reads it: of two that answer it at once, one is refused.

What is asked for stays the same for as long, whoever asks and however often, and is chosen anew a
few times an hour: nobody asks on until the challenge suits a recording.

A challenge for somebody who is there, and for a client that asks in measure.
"""

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any, cast

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from redis.asyncio import Redis
from redis.exceptions import RedisError

from contracts.errors import Conflict, RateLimited, Unavailable
from contracts.faces.liveness import (
    ACTIONS,
    ASKED,
    CHALLENGE_SECONDS,
    NONCE_BYTES,
    Action,
    Challenge,
    NewChallenge,
    Purpose,
)
from contracts.queue import redis_keys
from service.dependencies import Services

MOST_A_CLIENT = 1000
"""Challenges a client may be given within `CHALLENGE_SECONDS`; each costs half a kB of Redis."""
MOST_A_SUBJECT = 10
"""Of these for one subject: more tries than a person makes, far fewer than guessing needs."""
MOST_DRAWN = 10
"""How often within an hour actions are chosen for one subject, whoever asks."""

_ID = re.compile(r"ch_[A-Za-z0-9_-]{16}")
_MAKE = """
for i = 2, 3 do
  local made = redis.call('INCR', KEYS[i])
  if made == 1 then redis.call('EXPIRE', KEYS[i], ARGV[2]) end
  if made > tonumber(ARGV[i + 1]) then return {math.max(1, redis.call('TTL', KEYS[i])), ''} end
end
local actions = redis.call('GET', KEYS[4])
if not actions then
  local drawn = redis.call('INCR', KEYS[5])
  if drawn == 1 then redis.call('EXPIRE', KEYS[5], 3600) end
  if drawn > tonumber(ARGV[5]) then return {math.max(1, redis.call('TTL', KEYS[5])), ''} end
  actions = ARGV[6]
  redis.call('SET', KEYS[4], actions, 'EX', ARGV[2])
end
local kept = cjson.decode(ARGV[1])
kept.actions = cjson.decode(actions)
redis.call('SET', KEYS[1], cjson.encode(kept), 'EX', ARGV[2])
return {0, actions}
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """A challenge whose nonce was right; it is gone from now on.

    Attributes:
        id: Its id.
        actions: What the clip has to show, in order.
    """

    id: str
    actions: tuple[Action, ...]


class Challenges:
    """All challenges, seen by one API process.

    Args:
        client: A connection whose answers are bytes.
        clock: What time it is; an aware time.
        random: Chooses the actions; the system's own unless a test says otherwise.
    """

    def __init__(
        self, client: Redis, clock: Callable[[], datetime], random: Random | None = None
    ) -> None:
        self._client = client
        self._clock = clock
        self._random = random or secrets.SystemRandom()
        self._make = client.register_script(_MAKE)

    async def create(self, asked: NewChallenge, client: str) -> Challenge:
        """A new challenge.

        Args:
            asked: What it is to be for.
            client: Who asks, by a name that tells clients apart.

        Raises:
            RateLimited: That client was given too many of late, or the subject too many different
                ones.
            Unavailable: Redis does not answer.
        """
        challenge_id = f"ch_{secrets.token_urlsafe(12)}"
        nonce = secrets.token_urlsafe(NONCE_BYTES)
        kept = {
            "nonce": _digest(nonce),
            "for": _binding(asked.purpose, asked.subject_id, asked.device_id),
        }
        drawn = json.dumps(self._random.sample(ACTIONS, ASKED))
        keys, arguments = _kept(challenge_id, client, asked, kept, drawn)
        try:
            wait, actions = cast(tuple[int, bytes], await self._make(keys, arguments))
        except (RedisError, OSError) as error:
            raise _redis_away() from error
        if wait:
            raise RateLimited(
                "Too many challenges were asked for. Answer one, or wait.", retry_after=wait
            )
        return Challenge(
            id=challenge_id,
            nonce=nonce,
            actions=json.loads(actions),
            expires_at=self._clock() + timedelta(seconds=CHALLENGE_SECONDS),
        )

    async def take(
        self,
        challenge_id: str,
        nonce: str,
        *,
        purpose: Purpose,
        subject_id: str,
        device_id: str | None,
    ) -> Taken:
        """Use a challenge up; call it before anything is done with the clip.

        Args:
            challenge_id: As the client sent it.
            nonce: Likewise.
            purpose: What the clip is for.
            subject_id: Whom it shows.
            device_id: Which device sends it.

        Raises:
            Conflict: It is unknown, past its time or used, or its nonce is another one, or it was
                made for something else. In each case it can never be used again.
            Unavailable: Redis does not answer; the challenge may have been used up.
        """
        raw = await self._removed(challenge_id)
        kept: dict[str, Any] = json.loads(raw) if raw else {}
        told = (_digest(nonce), _binding(purpose, subject_id, device_id))
        right = [
            hmac.compare_digest(kept.get(field, ""), value)
            for field, value in zip(("nonce", "for"), told, strict=True)
        ]
        if not all(right):
            # Which of all this it was, only a thief would want to know.
            raise Conflict(
                "The challenge is unknown, expired, used, or for something else. Ask for a new "
                "one with POST /v1/faces/challenges and record a new clip."
            )
        return Taken(challenge_id, tuple(kept["actions"]))

    async def _removed(self, challenge_id: str) -> bytes | None:
        if not _ID.fullmatch(challenge_id):
            return None
        try:
            return cast(bytes | None, await self._client.getdel(redis_keys.challenge(challenge_id)))
        except (RedisError, OSError) as error:
            raise _redis_away() from error


def _kept(
    challenge_id: str, client: str, asked: NewChallenge, kept: dict[str, str], drawn: str
) -> tuple[Sequence[str], Sequence[str | int]]:
    """Keys and arguments of `_MAKE`."""
    who = hashlib.sha256(client.encode()).hexdigest()[:24]
    keys = [
        redis_keys.challenge(challenge_id),
        redis_keys.challenges_made(who),
        redis_keys.challenges_made(who, asked.subject_id),
        # Not by device: its name is the client's to choose.
        redis_keys.challenge_asked(asked.subject_id, asked.purpose),
        redis_keys.challenges_drawn(asked.subject_id),
    ]
    most = (MOST_A_CLIENT, MOST_A_SUBJECT, MOST_DRAWN)
    return keys, [json.dumps(kept), CHALLENGE_SECONDS, *most, drawn]


def _digest(nonce: str) -> str:
    """What is kept of a nonce: who reads Redis cannot answer for another."""
    return hashlib.sha256(nonce.encode()).hexdigest()


def _binding(purpose: Purpose, subject_id: str, device_id: str | None) -> str:
    """What a challenge was made for, as one value."""
    return hashlib.sha256(json.dumps([purpose, subject_id, device_id]).encode()).hexdigest()


def _redis_away() -> Unavailable:
    return Unavailable("The challenges do not answer. Retry shortly.", retry_after=2)


async def challenge(request: Request, asked: NewChallenge, services: Services) -> Challenge:
    """Make one.

    Args:
        request: Whose address tells clients apart.
        asked: What it is to be for.
        services: What does the work.

    Raises:
        SubjectNotFound: There is no such subject.
        RateLimited: The client was given too many of late.
        Unavailable: Redis or the database does not answer.
    """
    await run_in_threadpool(services.faces.kept.subjects.get, asked.subject_id)
    address = request.client.host if request.client else "local"
    return await services.faces.challenges.create(asked, address)
