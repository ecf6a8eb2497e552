"""All keys in memory, so that a request is authenticated without asking the database.

Every second one number, the revision, is read from the database; if it has grown, all keys are
read again. A key that one process revokes is therefore refused by the others about a second later,
and by that process at once. While the database is unavailable, the keys last read remain valid:
nothing can be revoked then either, and expiry follows the clock. Before the first read, only
OPSIN_API_KEY is known.
"""

import asyncio
import hmac
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from fastapi.concurrency import run_in_threadpool

from contracts.errors import Unauthorized, Unavailable
from contracts.keys import KEY_PATTERN, key_id_of
from contracts.settings import Settings
from database.keys import Keys, KeySnapshot, StoredKey, digest_of
from service.auth.principal import BOOTSTRAP, OPEN, Principal
from service.periodic import PeriodicTask

REFRESH_SECONDS = 1.0
_RELOAD_SECONDS = 60.0  # between two reads of all keys, whatever the revision
_RECORD_USE_SECONDS = 60.0  # between two writes of when keys were last used
_NO_DIGEST = bytes(32)
_REFUSED = "That key is unknown, revoked or expired."
_NONE_SENT = "Send a key as `Authorization: Bearer <key>` or `X-API-Key: <key>`."
_HOW_TO_GET_ONE = "On the server, `opsin keys create NAME --scope infer` makes one."
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
        self._reloaded = self._use_recorded = time.monotonic()
        self._reading = asyncio.Lock()
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
        now = time.time()
        same = hmac.compare_digest(sent, digest)
        if not same or principal is None or _has_expired(principal, now):
            raise self.refusal(_REFUSED)
        self._used[key_id] = now
        return principal

    def refusal(self, reason: str = _NONE_SENT) -> Unauthorized:
        """The error for a request without a valid key: why, and how to get one, in one line."""
        now = time.time()
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
        return current is not None and not _has_expired(current, time.time())

    async def refresh(self) -> None:
        """Read changed keys and, less often, write when keys were last used."""
        # One read at a time: a read that began before a key was revoked and ended after that was
        # applied would make the key valid again.
        async with self._reading:
            now = time.monotonic()
            read_all = now - self._reloaded >= _RELOAD_SECONDS
            known = None if self._snapshot is None or read_all else self._snapshot.revision
            changed = await run_in_threadpool(self._keys.snapshot, known)
            if changed is not None and (read_all or self._is_newer(changed)):
                self.replace(changed)
                self._reloaded = now
        if self._used and now - self._use_recorded >= _RECORD_USE_SECONDS:
            self._use_recorded = now
            await self._record_use()

    async def refresh_now(self) -> None:
        """Apply at once what this process has just changed.

        If the read fails, the next regular one applies it a second later.
        """
        await self._refreshes.run_once()

    def replace(self, snapshot: KeySnapshot) -> None:
        """Make these the valid keys."""
        self._principals = _principals(snapshot.keys)
        self._snapshot = snapshot

    def _is_newer(self, changed: KeySnapshot) -> bool:
        """An older snapshot must not replace a newer one, or a revoked key would become valid."""
        return self._snapshot is None or changed.revision > self._snapshot.revision

    async def _record_use(self) -> None:
        used, self._used = self._used, {}
        moments = {key_id: datetime.fromtimestamp(seconds, UTC) for key_id, seconds in used.items()}
        await run_in_threadpool(self._keys.record_use, moments)


def _has_expired(principal: Principal, now: float) -> bool:
    return principal.expires is not None and principal.expires <= now


def _principals(keys: Mapping[str, StoredKey]) -> dict[str, tuple[bytes, Principal]]:
    principals = {}
    for key_id, stored in keys.items():
        info = stored.info
        expires = None if info.expires_at is None else info.expires_at.timestamp()
        principal = Principal(key_id, frozenset(info.scopes), info.rate_per_minute, expires)
        principals[key_id] = (stored.digest, principal)
    return principals
