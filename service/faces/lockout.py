"""Lockout after failed logins: five failures in three minutes lock for half an hour.

Subjects and devices are counted separately: an attacker who tries many faces on one device locks
the device and not all those people. The counts are in Redis, so that they apply to all API
processes and survive restarts. Each step is one script: an attempt reserves its place before it is
judged, so that simultaneous attempts cannot exceed the limit.
"""

import secrets
from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis

from contracts.durations import in_words
from contracts.errors import LockedOut
from contracts.queue import redis_keys, scripts
from service.queue.client import redis_required

MAX_FAILURES = 5
WINDOW_SECONDS = 180
LOCK_SECONDS = 1800
_ATTEMPT_SECONDS = 600  # the longest deadline of a request; after that its place is free


@dataclass(frozen=True, slots=True)
class LoginAttempt:
    """An attempt that is being judged; has to be passed to `Lockout.end` in any case."""

    id: str
    subject_id: str
    device: str

    @property
    def counters(self) -> tuple[str, str]:
        """What failures are counted by, the subject first."""
        return subject_counter(self.subject_id), f"device:{self.device}"


def subject_counter(subject_id: str) -> str:
    """What the failures of a subject are counted by."""
    return f"subject:{subject_id}"


class Lockout:
    """Counts failed logins and refuses further ones.

    Args:
        client: A connection that returns bytes.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._begin = client.register_script(scripts.BEGIN_ATTEMPT)
        self._end = client.register_script(scripts.END_ATTEMPT)

    async def begin(self, subject_id: str, device: str) -> LoginAttempt:
        """Reserve a place among the permitted attempts.

        Args:
            device: Keyed hash of the device's id or address.

        Raises:
            LockedOut: The subject or the device has to wait.
            Unavailable: Redis does not answer; then all logins are refused.
        """
        attempt = LoginAttempt(secrets.token_hex(8), subject_id, device)
        args: list[str | int] = [attempt.id, MAX_FAILURES, WINDOW_SECONDS, _ATTEMPT_SECONDS]
        with redis_required():
            wait = cast(int, await self._begin(keys=_keys(attempt.counters), args=args))
        if wait > 0:
            raise LockedOut(
                f"Too many attempts failed. Try again in {in_words(wait / 1000)}.",
                retry_after=wait / 1000,
            )
        return attempt

    async def end(self, attempt: LoginAttempt, *, failed: bool) -> bool:
        """Free the place and count a failure. Returns whether that caused a lockout.

        If the subject was erased in the meantime, the failure counts only for the device.

        Raises:
            Unavailable: Redis does not answer.
        """
        limits: tuple[int, ...] = (int(failed), MAX_FAILURES, WINDOW_SECONDS, LOCK_SECONDS)
        args: list[str | int] = [attempt.id, *limits]
        with redis_required():
            keys = [*_keys(attempt.counters), redis_keys.erased(attempt.subject_id)]
            return bool(await self._end(keys=keys, args=args))

    async def forget(self, subject_id: str) -> None:
        """Delete the counts of an erased subject and prevent new ones.

        Raises:
            Unavailable: Redis does not answer.
        """
        with redis_required():
            await self._client.set(
                redis_keys.erased(subject_id), b"1", ex=redis_keys.ERASED_SECONDS
            )
            await self._client.delete(*_keys((subject_counter(subject_id),)))


def _keys(counters: tuple[str, ...]) -> list[str]:
    return [
        key(counter)
        for counter in counters
        for key in (redis_keys.face_lock, redis_keys.face_failures, redis_keys.face_attempts)
    ]
