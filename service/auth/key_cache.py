"""All keys, in memory: a request is checked without asking anybody.

Every second one number is read from the database, and where it has grown, all keys anew. So what
one process revokes, the others refuse a second later, and the process itself at once. While the
database is away, the keys last read stand: nothing can be revoked there either, and expiry goes by
the clock. Before the first reading, only OPSIN_API_KEY is known.
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
from database.keys import Keys, Snapshot, StoredKey, digest_of
from service.auth.principal import BOOTSTRAP, OPEN, Caller
from service.periodic import Rounds

REFRESH_SECONDS = 1.0
_RELOAD_SECONDS = 60.0  # all keys, whatever the number says
_NOTE_SECONDS = 60.0  # between two writings of when keys were used
_NO_DIGEST = bytes(32)
_REFUSED = "That key is not known, or was revoked or has expired. An administrator makes new ones."


class Keyring:
    """The keys in force.

    Args:
        settings: For OPSIN_API_KEY, and whether strangers can reach the service.
        keys: Where the others are kept.
    """

    def __init__(self, settings: Settings, keys: Keys) -> None:
        secret = settings.api_key
        self._bootstrap = digest_of(secret.get_secret_value()) if secret else None
        self._may_stand_open = settings.is_loopback and secret is None
        self._keys = keys
        self._snapshot: Snapshot | None = None
        self._callers: dict[str, tuple[bytes, Caller]] = {}
        self._used: dict[str, float] = {}
        self._reloaded = self._noted = time.monotonic()
        self._reading = asyncio.Lock()
        self._rounds = Rounds("keys", self.refresh, seconds=REFRESH_SECONDS)

    async def start(self) -> None:
        """Read the keys, and go on doing so."""
        await self._rounds.now()
        self._rounds.start()

    async def stop(self) -> None:
        """Read no more; what was noted of their use is written."""
        await self._rounds.stop()
        if self._used:
            await Rounds("key_use", self._note_use, seconds=_NOTE_SECONDS).now()

    @property
    def open(self) -> bool:
        """Whether nobody needs a key: on loopback, where none was ever made."""
        snapshot = self._snapshot
        return self._may_stand_open and snapshot is not None and snapshot.ever == 0

    def identify(self, credential: str) -> Caller:
        """Who shows this.

        Raises:
            Unauthorized: It is no key, or none any more.
            Unavailable: The keys could not be read yet.
        """
        shown = digest_of(credential)
        match = KEY_PATTERN.fullmatch(credential)
        # What looks like one of our keys is judged by the table alone, even as OPSIN_API_KEY: or
        # it could not be revoked.
        if match is None:
            if self._bootstrap is not None and hmac.compare_digest(shown, self._bootstrap):
                return BOOTSTRAP
            raise Unauthorized(_REFUSED)
        if self._snapshot is None:
            raise Unavailable("The keys cannot be read yet. Retry soon.", retry_after=2)
        key_id = key_id_of(match[1])
        digest, caller = self._callers.get(key_id, (_NO_DIGEST, None))
        now = time.time()
        same = hmac.compare_digest(shown, digest)
        if not same or caller is None or (caller.expires is not None and caller.expires <= now):
            raise Unauthorized(_REFUSED)
        self._used[key_id] = now
        return caller

    async def refresh(self) -> None:
        """Take in what has changed, and write now and then when keys were used."""
        # One after the other: a reading that began before a key was revoked, and ends after that
        # was taken in, would let it live again.
        async with self._reading:
            now = time.monotonic()
            all_of_it = now - self._reloaded >= _RELOAD_SECONDS
            known = None if self._snapshot is None or all_of_it else self._snapshot.revision
            changed = await run_in_threadpool(self._keys.snapshot, known)
            if changed is not None and (all_of_it or self._is_news(changed)):
                self.adopt(changed)
                self._reloaded = now
        if self._used and now - self._noted >= _NOTE_SECONDS:
            self._noted = now
            await self._note_use()

    async def catch_up(self) -> None:
        """Take in at once what this process has just changed.

        It is done whether or not it can be read back: else a round does it a second later.
        """
        await self._rounds.now()

    def stands(self, caller: Caller) -> bool:
        """Whether who was let in would be let in still."""
        if caller is BOOTSTRAP:
            return True
        if caller is OPEN:
            return self.open
        _, known = self._callers.get(caller.id, (_NO_DIGEST, None))
        return known is not None and (known.expires is None or known.expires > time.time())

    def adopt(self, snapshot: Snapshot) -> None:
        """Let these keys be in force."""
        self._callers = _callers(snapshot.keys)
        self._snapshot = snapshot

    def _is_news(self, changed: Snapshot) -> bool:
        """Whether nobody has read more meanwhile; else a key just revoked would live again."""
        return self._snapshot is None or changed.revision > self._snapshot.revision

    async def _note_use(self) -> None:
        used, self._used = self._used, {}
        moments = {key_id: datetime.fromtimestamp(at, UTC) for key_id, at in used.items()}
        await run_in_threadpool(self._keys.note_use, moments)

    @property
    def anybody(self) -> Caller | None:
        """Who sends a request without a key; None where one is needed."""
        return OPEN if self.open else None


def _callers(keys: Mapping[str, StoredKey]) -> dict[str, tuple[bytes, Caller]]:
    found = {}
    for key_id, stored in keys.items():
        info = stored.info
        expires = None if info.expires_at is None else info.expires_at.timestamp()
        caller = Caller(key_id, frozenset(info.scopes), info.rate_per_minute, expires)
        found[key_id] = (stored.digest, caller)
    return found
