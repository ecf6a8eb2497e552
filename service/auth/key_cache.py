"""All keys in memory, so that a request is authenticated without asking the database.

Every second the revision is read from the database; if it is another one, all keys are read again.
It need not be a later one: after a failover, the database may lack the last changes. A change is
announced (`service.changes`), so that every process has read it before it is acknowledged. While
the database is unavailable, the keys last read remain valid: nothing can be revoked then either,
and expiry follows the clock of the database. Before the first read, only OPSIN_API_KEY is known.
"""

import hashlib
import hmac
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from contracts.errors import Unauthorized, Unavailable
from contracts.key_proof import KeyChallenge
from contracts.keys import KEY_PATTERN, key_id_of
from contracts.settings import Settings
from database.keys import KeyRevision, Keys, KeySnapshot, StoredKey, digest_of
from service.auth.principal import BOOTSTRAP, OPEN, Principal
from service.periodic import PeriodicTask
from service.shared_check import SharedCheck
from service.threads import run_in_threadpool

REFRESH_SECONDS = 1.0
_RELOAD_SECONDS = 60.0  # between two reads of all keys, whatever the revision
_RECORD_USE_SECONDS = 60.0  # between two writes of when keys were last used
_MEASUREMENT_SECONDS = 0.1
_NO_DIGEST = bytes(32)
_REFUSED = "That key is unknown, revoked or expired."
_NONE_SENT = "Send a key as `Authorization: Bearer <key>` or `X-API-Key: <key>`."
_HOW_TO_GET_ONE = (
    "On the server, `opsin keys create NAME` makes one, and `opsin keys cli` one for its commands."
)
_LOCKED = (
    "No key works at present. On the server, `opsin keys cli` makes an admin key for its commands, "
    "and `opsin keys open` lets that machine in without a key again."
)


class KeyCache:
    """The valid keys.

    Args:
        settings: For OPSIN_API_KEY, and whether the service listens on loopback.
        keys: The table of all other keys.
    """

    def __init__(self, settings: Settings, keys: Keys) -> None:
        secret = settings.api_key
        self._bootstrap = digest_of(secret.get_secret_value()) if secret else None
        self._may_be_open = settings.is_loopback and secret is None
        self._keys = keys
        self._snapshot: KeySnapshot | None = None
        self._principals: dict[str, tuple[bytes, Principal]] = {}
        self._used: dict[str, float] = {}
        self._offset = time.time() - time.monotonic()
        self._reloaded = self._use_recorded = time.monotonic()
        # One read at a time: a read that began before a key was revoked and ended after that was
        # applied would make the key valid again.
        self._check = SharedCheck(self._read)
        self._refreshes = PeriodicTask("keys", self.refresh, seconds=REFRESH_SECONDS)

    async def start(self) -> None:
        """Read the keys, and then regularly."""
        await self._refreshes.run_once()
        self._refreshes.start()

    async def stop(self) -> None:
        """Stop reading, and write when keys were last used."""
        await self._refreshes.stop()
        if self._used:
            last = PeriodicTask("key_use", self._record_use, seconds=_RECORD_USE_SECONDS)
            await last.run_once()

    @property
    def is_open(self) -> bool:
        """Whether no key is needed: on loopback, as long as none was ever created."""
        snapshot = self._snapshot
        return self._may_be_open and snapshot is not None and snapshot.ever_created == 0

    @property
    def anonymous(self) -> Principal | None:
        """The principal of a request without a key; None if a key is needed."""
        return OPEN if self.is_open else None

    def authenticate(self, credential: str) -> Principal:
        """The principal of a credential.

        Raises:
            Unauthorized: It is not a valid key.
            Unavailable: The keys could not be read yet.
        """
        sent = digest_of(credential)
        match = KEY_PATTERN.fullmatch(credential)
        # A credential in the format of our keys must be in the table, even if it is OPSIN_API_KEY;
        # otherwise it could not be revoked.
        if match is None:
            if self._bootstrap is not None and hmac.compare_digest(sent, self._bootstrap):
                return BOOTSTRAP
            raise self.refusal(_REFUSED)
        if self._snapshot is None:
            raise Unavailable("The keys cannot be read yet. Retry soon.", retry_after=2)
        key_id = key_id_of(match[1])
        digest, principal = self._principals.get(key_id, (_NO_DIGEST, None))
        now = self._now()
        same = hmac.compare_digest(sent, digest)
        if not same or principal is None or _has_expired(principal, now):
            raise self.refusal(_REFUSED)
        self._used[key_id] = now
        return principal

    def refusal(self, reason: str = _NONE_SENT) -> Unauthorized:
        """The error for a request without a valid key: why, and how to get one, in one line."""
        now = self._now()
        works = any(not _has_expired(one, now) for _, one in self._principals.values())
        locked = self._may_be_open and self._snapshot is not None and not works
        return Unauthorized(f"{reason} {_LOCKED if locked else _HOW_TO_GET_ONE}")

    def is_valid(self, principal: Principal) -> bool:
        """Whether a principal that was authenticated earlier would still be."""
        if principal is BOOTSTRAP:
            return True
        if principal is OPEN:
            return self.is_open
        _, current = self._principals.get(principal.id, (_NO_DIGEST, None))
        return current is not None and not _has_expired(current, self._now())

    def proof(self, challenge: KeyChallenge, port: int) -> str | None:
        """Shows that this service knows a valid key; None if it does not."""
        digest, principal = self._principals.get(key_id_of(challenge.public), (_NO_DIGEST, None))
        if principal is None or _has_expired(principal, self._now()):
            return None
        return challenge.proof(digest, port)

    def current(self, key_id: str) -> Principal | None:
        """The principal of a key as it is now; None if it is not valid."""
        if key_id == BOOTSTRAP.id:
            return BOOTSTRAP if self._bootstrap is not None else None
        _, principal = self._principals.get(key_id, (_NO_DIGEST, None))
        return None if principal is None or _has_expired(principal, self._now()) else principal

    def proof_of(self, key_id: str) -> str | None:
        """Equal as long as a key of that id is valid and the same; reveals nothing about it."""
        if self.current(key_id) is None:
            return None
        digest, _ = self._principals.get(key_id, (self._bootstrap or _NO_DIGEST, None))
        return hashlib.sha256(b"session" + digest).hexdigest()

    def is_older_than(self, moment: float) -> bool:
        """Whether the last read began before `moment` of `time.monotonic()`."""
        return self._check.is_older_than(moment)

    def is_unknown(self, credential: str) -> bool:
        """Whether it has the format of a key and its id was not read yet: it may be new."""
        match = KEY_PATTERN.fullmatch(credential)
        return match is not None and key_id_of(match[1]) not in self._principals

    async def refresh(self) -> None:
        """Read changed keys and, less often, write when keys were last used.

        Raises:
            Unavailable: The database does not answer.
        """
        await self._check.refresh()
        now = time.monotonic()
        if self._used and now - self._use_recorded >= _RECORD_USE_SECONDS:
            self._use_recorded = now
            await self._record_use()

    async def _read(self) -> None:
        now = time.monotonic()
        read_all = now - self._reloaded >= _RELOAD_SECONDS
        known = None if self._snapshot is None or read_all else self._snapshot.revision
        changed, self._offset = await run_in_threadpool(self._read_keys, known)
        if changed is not None:
            self.replace(changed)
            self._reloaded = now

    def replace(self, snapshot: KeySnapshot) -> None:
        """Make these the valid keys."""
        self._principals = _principals(snapshot.keys)
        self._snapshot = snapshot

    def _read_keys(self, known: KeyRevision | None) -> tuple[KeySnapshot | None, float]:
        """The keys, and by how much the clock of the database is ahead of the monotonic one."""
        changed = self._keys.snapshot(known)
        return changed, self._keys.now().timestamp() - time.monotonic()

    def _now(self) -> float:
        """The time by the clock that expiries are written with: another host's may differ."""
        return time.monotonic() + self._offset

    async def _record_use(self) -> None:
        used, self._used = self._used, {}
        moments = {key_id: datetime.fromtimestamp(seconds, UTC) for key_id, seconds in used.items()}
        await run_in_threadpool(self._keys.record_use, moments)


def _has_expired(principal: Principal, now: float) -> bool:
    # Early: the process that wrote the expiry may have measured the clock a little earlier.
    return principal.expires is not None and principal.expires <= now + _MEASUREMENT_SECONDS


def _principals(keys: Mapping[str, StoredKey]) -> dict[str, tuple[bytes, Principal]]:
    principals = {}
    for key_id, stored in keys.items():
        info = stored.info
        expires = None if info.expires_at is None else info.expires_at.timestamp()
        principal = Principal(key_id, frozenset(info.scopes), info.rate_per_minute, expires)
        principals[key_id] = (stored.digest, principal)
    return principals
