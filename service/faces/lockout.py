"""Who failed too often waits: five failures in three minutes, then half an hour.

Subject and device are counted apart, and each is locked by its own count: who tries many faces on
one device locks the device and not all those people. It all lies in Redis, so that it holds for
every API process and outlives their restarts, and each step is one script, so that attempts made
at once cannot slip past: an attempt takes its place before it is judged.
"""

import secrets
from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from contracts.errors import LockedOut, Unavailable
from contracts.queue import redis_keys

MOST_FAILURES = 5
WINDOW_SECONDS = 180
LOCK_SECONDS = 1800
_ATTEMPT_SECONDS = 600  # the longest deadline of a request; then its place is free whatever became

_BEGIN = """
local now = redis.call('TIME')
now = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local mark, most, window, attempt = ARGV[1], tonumber(ARGV[2]), ARGV[3] * 1000, ARGV[4] * 1000
local wait = 0
for i = 1, #KEYS, 3 do wait = math.max(wait, redis.call('PTTL', KEYS[i])) end
if wait > 0 then return wait end
for i = 1, #KEYS, 3 do
  redis.call('ZREMRANGEBYSCORE', KEYS[i + 1], 0, now - window)
  redis.call('ZREMRANGEBYSCORE', KEYS[i + 2], 0, now - attempt)
  local taken = redis.call('ZCARD', KEYS[i + 1]) + redis.call('ZCARD', KEYS[i + 2])
  if taken >= most then wait = 1000 end
end
if wait > 0 then return wait end
for i = 1, #KEYS, 3 do
  redis.call('ZADD', KEYS[i + 2], now, mark)
  redis.call('PEXPIRE', KEYS[i + 2], attempt)
end
return 0
"""
_END = """
local now = redis.call('TIME')
now = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local mark, failed, most = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3])
local window, lock = ARGV[4] * 1000, ARGV[5] * 1000
local erased = redis.call('EXISTS', KEYS[#KEYS]) == 1
local locked = 0
for i = 1, #KEYS - 1, 3 do
  redis.call('ZREM', KEYS[i + 2], mark)
  if failed and not (erased and i == 1) then
    redis.call('ZADD', KEYS[i + 1], now, mark)
    redis.call('ZREMRANGEBYSCORE', KEYS[i + 1], 0, now - window)
    redis.call('PEXPIRE', KEYS[i + 1], window)
    if redis.call('ZCARD', KEYS[i + 1]) >= most then
      redis.call('SET', KEYS[i], '1', 'PX', lock)
      redis.call('DEL', KEYS[i + 1])
      locked = 1
    end
  end
end
return locked
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that is being judged; hand it to `Lockout.end` whatever becomes of it."""

    mark: str
    subject_id: str
    device: str

    @property
    def parties(self) -> tuple[str, str]:
        """Who is counted, the subject first."""
        return of_subject(self.subject_id), f"device:{self.device}"


def of_subject(subject_id: str) -> str:
    """The party that a subject is."""
    return f"subject:{subject_id}"


class Lockout:
    """Counts, and refuses.

    Args:
        client: A connection whose answers are bytes.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._begin = client.register_script(_BEGIN)
        self._end = client.register_script(_END)

    async def begin(self, subject_id: str, device: str) -> Attempt:
        """Take a place among the few attempts that may be made.

        Args:
            subject_id: Who is claimed to be there.
            device: Digest of the device's id or address.

        Raises:
            LockedOut: The subject or the device has to wait.
            Unavailable: Redis does not answer; then nobody gets in.
        """
        attempt = Attempt(secrets.token_hex(8), subject_id, device)
        args: list[str | int] = [attempt.mark, MOST_FAILURES, WINDOW_SECONDS, _ATTEMPT_SECONDS]
        try:
            wait = cast(int, await self._begin(keys=_keys(attempt.parties), args=args))
        except (RedisError, OSError) as error:
            raise _redis_away() from error
        if wait > 0:
            raise LockedOut(
                "Too many attempts failed. Wait as long as Retry-After says, then try again.",
                retry_after=wait / 1000,
            )
        return attempt

    async def end(self, attempt: Attempt, *, failed: bool) -> bool:
        """Give the place back, and count the failure if it was one; whether that locked.

        Of a subject that was erased meanwhile nothing is counted, of the device still.

        Raises:
            Unavailable: Redis does not answer.
        """
        counted: tuple[int, ...] = (int(failed), MOST_FAILURES, WINDOW_SECONDS, LOCK_SECONDS)
        args: list[str | int] = [attempt.mark, *counted]
        try:
            keys = [*_keys(attempt.parties), redis_keys.erased(attempt.subject_id)]
            return bool(await self._end(keys=keys, args=args))
        except (RedisError, OSError) as error:
            raise _redis_away() from error

    async def forget(self, subject_id: str) -> None:
        """Remove what is counted of a subject that was erased, and count nothing of it any more.

        Raises:
            Unavailable: Redis does not answer.
        """
        try:
            mark = redis_keys.erased(subject_id)
            await self._client.set(mark, b"1", ex=redis_keys.ERASED_SECONDS)
            await self._client.delete(*_keys((of_subject(subject_id),)))
        except (RedisError, OSError) as error:
            raise _redis_away() from error


def _keys(parties: tuple[str, ...]) -> list[str]:
    return [
        key(party)
        for party in parties
        for key in (redis_keys.face_lock, redis_keys.face_failures, redis_keys.face_attempts)
    ]


def _redis_away() -> Unavailable:
    return Unavailable("The queue does not answer. Retry shortly.", retry_after=2)
