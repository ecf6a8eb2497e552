"""Lockout after failed attempts: five failures in three minutes lock a device for half an hour.

Failures are counted by device and address, by address, and by subject. Only the first is strict.
The limit of an address is higher, because many people may share one, and that of a subject higher
still, with short waits that grow: who knows a subject's id must not be able to lock the person out.
It does not apply at all to a device that matched as the subject before. A client chooses its device
id, so it never counts without the address.

Attempts that could not be judged, for example an image without a face, have a limit of their own.
The counts are in Redis, so that they apply to all API processes and survive restarts. Each step is
one script: an attempt reserves its place before it is judged, so that simultaneous attempts cannot
exceed a limit. No place is reserved in the name of the subject, for the same reason as above. But
unknown devices at one address have few for one subject, so that no burst disables the face.
"""

import asyncio
import json
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Literal, cast

from redis.asyncio import Redis

from contracts.errors import LockedOut, Unavailable
from contracts.queue import redis_keys, scripts
from contracts.wording import in_words
from service.detached import DetachedTasks
from service.queue.faults import redis_required

MAX_FAILURES = 5
WINDOW_SECONDS = 180
LOCK_SECONDS = 1800
ADDRESS_FAILURES = 10
SUBJECT_FAILURES = 20
SUBJECT_WINDOW_SECONDS = 24 * 3600
_UNUSABLE_PER_FAILURE = 10
UNUSABLE_ATTEMPTS = ADDRESS_FAILURES * _UNUSABLE_PER_FAILURE
_ADDRESS_PLACES = 54  # attempts in progress that an address may have besides its failures
_PAIR_PLACES = 5  # attempts in progress of unknown devices at an address as one subject
_SUBJECT_PLACES = 24  # likewise, at all addresses: with SUBJECT_FAILURES, fewer than disable a face
_NEVER = 1 << 31
_ATTEMPT_SECONDS = 600  # the longest deadline of a request; after that its place is free
_LOCKS_SECONDS = 24 * 3600  # for which earlier locks make the next one longer
_KNOWN_DEVICES = 16

Outcome = Literal["matched", "failed", "unusable", "neither"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes an attempt, as keyed hashes.

    Attributes:
        device: Of the device id that the client sent; empty if it sent none.
        address: Of the client's address; empty if there is none, as with a Unix socket.
    """

    device: str
    address: str

    @property
    def name(self) -> str:
        return f"{self.device}@{self.address}"

    @property
    def known_as(self) -> str:
        """What a later attempt is recognized by; a phone changes its address often."""
        return self.device or f"@{self.address}"


@dataclass(frozen=True, slots=True)
class Limit:
    """How many failures lock a party, and for how long; times are in milliseconds.

    Attributes:
        most: The failure that locks.
        window: How long a failure counts.
        lock: The first lock; each further one within `memory` is twice as long.
        longest: The longest lock.
        places: Failures and attempts in progress that it may have together; 0: any number.
        personal: Whether the counts are about a person and so end with its erasure.
        keeps: Whether failures still count after a lock, so that each further one locks again.
    """

    most: int
    window: int
    lock: int
    longest: int
    places: int = 0
    personal: bool = False
    keeps: bool = False
    memory: int = _LOCKS_SECONDS * 1000


@dataclass(frozen=True, slots=True)
class Party:
    """Whom attempts are counted by.

    Attributes:
        counts: The outcome that counts.
        is_enforced: Whether its lock applies to this caller, who counts for it in any case.
    """

    name: str
    limit: Limit
    counts: Outcome = "failed"
    is_enforced: bool = True


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that is being judged; has to be passed to `Lockout.end` in any case."""

    id: str
    subject_id: str
    caller: Caller
    parties: tuple[Party, ...]


class Lockout:
    """Counts failed attempts and refuses further ones.

    Args:
        client: A connection that returns bytes.
        address_failures: Failures in three minutes that lock an address, as do ten times as many
            attempts that cannot be judged; 0: none do.
    """

    def __init__(self, client: Redis, address_failures: int = ADDRESS_FAILURES) -> None:
        self._client = client
        self._address_failures = address_failures
        self._begin = client.register_script(scripts.BEGIN_ATTEMPT)
        self._end = client.register_script(scripts.END_ATTEMPT)
        self._running = DetachedTasks()

    async def begin(self, subject_id: str, caller: Caller, *, signed: bool = False) -> Attempt:
        """Reserve a place among the permitted attempts.

        Args:
            signed: Whether no face is compared without a valid signature of the subject's device;
                then the subject's own limit does not apply.

        Raises:
            LockedOut: The device, the address or the subject has to wait.
            Unavailable: Redis does not answer; then all attempts are refused.
        """
        parties = (*self._parties(caller), *_pair(subject_id, caller))
        if not signed and not await self.is_known(subject_id, caller):
            parties = (*parties, Party(subject_party(subject_id), _subject_limit()))
            parties += _places(subject_id, caller)
        attempt = Attempt(secrets.token_hex(8), subject_id, caller, parties)
        enforced = tuple(party for party in parties if party.is_enforced)
        limits = json.dumps([asdict(party.limit) for party in enforced])
        reserving = self._running.start(
            self._require(enforced, [attempt.id, _ATTEMPT_SECONDS, limits])
        )
        try:
            await asyncio.shield(reserving)
        except (asyncio.CancelledError, Unavailable):  # Redis may have reserved it all the same
            self._running.start(self._give_back(attempt, reserving))
            raise
        return attempt

    async def is_known(self, subject_id: str, caller: Caller) -> bool:
        """Whether the caller has recently matched as the subject.

        Raises:
            Unavailable: Redis does not answer.
        """
        with redis_required():
            devices = redis_keys.face_devices(subject_id)
            return await self._client.zscore(devices, caller.known_as) is not None

    async def forget_device(self, subject_id: str, caller: Caller) -> None:
        """Count a device of a subject as one that has never matched.

        Raises:
            Unavailable: Redis does not answer.
        """
        with redis_required():
            await self._client.zrem(redis_keys.face_devices(subject_id), caller.known_as)

    async def require_open(self, caller: Caller) -> None:
        """Refuse a caller who is locked out, without reserving a place.

        Raises:
            LockedOut: The device or the address has to wait.
            Unavailable: Redis does not answer.
        """
        parties = self._parties(caller)
        limits = json.dumps([asdict(party.limit) | {"places": 0} for party in parties])
        await self._require(parties, ["", _ATTEMPT_SECONDS, limits])

    async def locked(self, subject_ids: list[str]) -> set[str]:
        """Those subjects that wait because of failures from unknown devices.

        Raises:
            Unavailable: Redis does not answer.
        """
        if not subject_ids:
            return set()
        keys = [redis_keys.face_lock(subject_party(subject_id)) for subject_id in subject_ids]
        with redis_required():
            locks = await self._client.mget(keys)
        return {
            subject_id
            for subject_id, lock in zip(subject_ids, locks, strict=True)
            if lock is not None
        }

    async def end(self, attempt: Attempt, outcome: Outcome) -> bool:
        """Free the place and count a failure. Returns whether that caused a lockout.

        That is done even if the caller's time ends meanwhile. If the subject was erased in the
        meantime, nothing is kept about it.

        Raises:
            Unavailable: Redis does not answer.
        """
        return await self._running.completed(self._ended(attempt, outcome))

    async def _ended(self, attempt: Attempt, outcome: Outcome) -> bool:
        limits = [
            asdict(party.limit) | {"counts": party.counts == outcome} for party in attempt.parties
        ]
        keys = [
            *_keys(attempt.parties),
            redis_keys.erased(attempt.subject_id),
            redis_keys.face_devices(attempt.subject_id),
        ]
        known = attempt.caller.known_as if outcome == "matched" else ""
        args: list[str | int] = [attempt.id, json.dumps(limits), known]
        args += [_KNOWN_DEVICES, redis_keys.ERASED_SECONDS]
        with redis_required():
            return bool(await self._end(keys=keys, args=args))

    async def _give_back(self, attempt: Attempt, reserving: "asyncio.Task[None]") -> None:
        """Free a place whose reservation nobody has waited for."""
        with suppress(LockedOut, Unavailable):
            with suppress(Unavailable):
                await reserving
            await self._ended(attempt, "neither")

    async def forget(self, subject_id: str) -> None:
        """Delete the counts of an erased subject and prevent new ones.

        Raises:
            Unavailable: Redis does not answer.
        """
        party = Party(subject_party(subject_id), _subject_limit())
        with redis_required():
            await self._client.set(
                redis_keys.erased(subject_id), b"1", ex=redis_keys.ERASED_SECONDS
            )
            await self._client.delete(*_keys((party,)), redis_keys.face_devices(subject_id))

    def _parties(self, caller: Caller) -> tuple[Party, ...]:
        """The parties that are not a subject."""
        parties = []
        if caller.device or caller.address:
            parties.append(Party(f"device:{caller.name}", _device_limit()))
        if caller.address and (most := self._address_failures):
            unusable = _growing(most * _UNUSABLE_PER_FAILURE, WINDOW_SECONDS, 60)
            parties.append(Party(f"unusable:{caller.address}", unusable, "unusable"))
            limit = _growing(most, WINDOW_SECONDS, 60, places=most + _ADDRESS_PLACES)
            parties.append(Party(f"address:{caller.address}", limit))
        return tuple(parties)

    async def _require(self, parties: tuple[Party, ...], args: list[str | int]) -> None:
        with redis_required():
            wait = cast(int, await self._begin(keys=_keys(parties), args=args))
        if wait > 0:
            raise LockedOut(
                f"Too many attempts failed. Try again in {in_words(wait / 1000)}. Until then, log "
                "in another way.",
                retry_after=wait / 1000,
            )


def subject_party(subject_id: str) -> str:
    """What the failures of a subject are counted by."""
    return f"subject:{subject_id}"


def _pair(subject_id: str, caller: Caller) -> tuple[Party, ...]:
    """The subject at an address, whatever device the failures named.

    It locks callers who name none, who would otherwise go on where a device was locked out. The
    name is a digest, so that the id does not outlive an erasure.
    """
    if not caller.address:
        return ()
    lock = LOCK_SECONDS * 1000
    limit = Limit(MAX_FAILURES, WINDOW_SECONDS * 1000, lock, lock, personal=True)
    name = f"pair:{_pair_digest(subject_id, caller)}"
    return (Party(name, limit, is_enforced=not caller.device),)


def _places(subject_id: str, caller: Caller) -> tuple[Party, ...]:
    """The subject, alone and at an address, for whom unknown devices wait and are never locked.

    Otherwise a burst from many addresses would be judged before its first failures could lock.
    """
    at = {f"places:{_digest(subject_id)}": _SUBJECT_PLACES}
    if caller.address:
        at[f"places:{_pair_digest(subject_id, caller)}"] = _PAIR_PLACES
    return tuple(Party(name, _only_places(places), counts="matched") for name, places in at.items())


def _pair_digest(subject_id: str, caller: Caller) -> str:
    return _digest(f"{subject_id}@{caller.address}")


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:32]


def _device_limit() -> Limit:
    lock = LOCK_SECONDS * 1000
    return Limit(MAX_FAILURES, WINDOW_SECONDS * 1000, lock, lock, places=MAX_FAILURES)


def _subject_limit() -> Limit:
    return _growing(SUBJECT_FAILURES, SUBJECT_WINDOW_SECONDS, 30, personal=True)


def _only_places(places: int) -> Limit:
    """A limit of attempts in progress that never locks."""
    return Limit(_NEVER, window=1, lock=1, longest=1, places=places, personal=True)


def _growing(
    most: int, window: int, lock: int, *, places: int = 0, personal: bool = False
) -> Limit:
    """A limit whose locks grow up to half an hour; times are in seconds."""
    longest = LOCK_SECONDS * 1000
    return Limit(most, window * 1000, lock * 1000, longest, places, personal, keeps=personal)


def _keys(parties: tuple[Party, ...]) -> list[str]:
    return [
        key(party.name)
        for party in parties
        for key in (
            redis_keys.face_lock,
            redis_keys.face_failures,
            redis_keys.face_attempts,
            redis_keys.face_locks,
        )
    ]
