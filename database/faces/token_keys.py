"""The keys that sign the tokens of face logins, shared by all API processes in the database.

The private keys are encrypted by the master key. A key that was replaced stays public until the
last token that it signed has expired.
"""

import base64
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from contracts.errors import NeedsOperator
from database.crypto.envelope import MISSING_KEY_HELP, DecryptionError, EnvelopeCipher
from database.engine import advisory_lock, reading, writing
from database.tables import TOKEN_KEYS, FaceSettingRecord

_LOCK = 0x0951_0003  # see `database.engine.advisory_lock`
_GRACE = timedelta(minutes=5)  # for clocks that differ and tokens requested just before a rotation


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What a verifier needs of a key."""

    id: str
    key: Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The key that signs now."""

    id: str
    key: Ed25519PrivateKey


class TokenKeys:
    """All keys, in one row. Raises `Unavailable` if the database does not answer.

    Args:
        max_age: Age at which the signing key is replaced.
        token_life: How long a token is valid.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], datetime],
        cipher: EnvelopeCipher,
        *,
        max_age: timedelta,
        token_life: timedelta,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._cipher = cipher
        self._max_age = max_age
        self._token_life = token_life

    def signing(self) -> SigningKey:
        """Return the signing key; a new one is generated if there is none or it is too old.

        Raises:
            NeedsOperator: The master key that encrypted it is missing.
        """
        with reading(self._engine) as session:
            keys = _load(session)
        if not keys or keys[0]["retired_at"] or self._age(keys[0]) > self._max_age:
            keys = self._rotate(self._max_age)
        try:
            raw = self._decrypt(keys[0])
        except DecryptionError as error:
            raise NeedsOperator(
                f"Tokens cannot be signed: {MISSING_KEY_HELP}",
                retry_after=60,
            ) from error
        return SigningKey(keys[0]["id"], Ed25519PrivateKey.from_private_bytes(raw))

    def public(self) -> list[PublicKey]:
        """The keys whose tokens may still be valid, the signing key first."""
        with reading(self._engine) as session:
            keys = _load(session)
        return [
            PublicKey(
                key["id"], Ed25519PublicKey.from_public_bytes(base64.b64decode(key["public"]))
            )
            for key in keys
            if not self._is_expired(key)
        ]

    def rotate(self) -> str:
        """Replace the signing key by a new one; returns its id."""
        keys = self._rotate(timedelta(0))
        return str(keys[0]["id"])

    def reencrypt(self) -> int:
        """Encrypt all keys with the first master key; returns how many there are.

        Raises:
            DecryptionError: A master key is missing.
        """
        with writing(self._engine) as session:
            advisory_lock(session.connection(), _LOCK)
            keys = _load(session)
            for key in keys:
                raw = self._decrypt(key)
                key["sealed"] = _base64(self._cipher.encrypt(raw, _purpose(key["id"])))
            self._store(session, keys)
        return len(keys)

    def replace_lost(self) -> int:
        """Forget the keys that cannot be decrypted; returns how many.

        The tokens that they have signed are no longer valid. The next login makes a new key.
        """
        with writing(self._engine) as session:
            advisory_lock(session.connection(), _LOCK)
            keys = _load(session)
            readable = [key for key in keys if self._is_readable(key)]
            if len(readable) < len(keys):
                self._store(session, readable)
        return len(keys) - len(readable)

    def _is_readable(self, key: dict[str, Any]) -> bool:
        try:
            self._decrypt(key)
        except DecryptionError:
            return False
        return True

    def _rotate(self, max_age: timedelta) -> list[dict[str, Any]]:
        """Make sure that the first key is younger than `max_age`; returns all keys."""
        with writing(self._engine) as session:
            advisory_lock(session.connection(), _LOCK)
            keys = _load(session)
            is_live = keys and not keys[0]["retired_at"]
            if is_live and max_age and self._age(keys[0]) <= max_age:
                return keys  # another process was faster
            now = self._clock().isoformat()
            for key in keys:
                key["retired_at"] = key["retired_at"] or now
            keys = [self._new_key(now), *(key for key in keys if not self._is_expired(key))]
            self._store(session, keys)
        return keys

    def _new_key(self, now: str) -> dict[str, Any]:
        key_id = secrets.token_urlsafe(9)
        key = Ed25519PrivateKey.generate()
        return {
            "id": key_id,
            "public": _base64(key.public_key().public_bytes_raw()),
            "sealed": _base64(self._cipher.encrypt(key.private_bytes_raw(), _purpose(key_id))),
            "created_at": now,
            "retired_at": None,
        }

    def _decrypt(self, key: dict[str, Any]) -> bytes:
        return self._cipher.decrypt(base64.b64decode(key["sealed"]), _purpose(key["id"]))

    def _store(self, session: Session, keys: list[dict[str, Any]]) -> None:
        row = session.get(FaceSettingRecord, TOKEN_KEYS)
        if row is None:
            row = FaceSettingRecord(key=TOKEN_KEYS)
            session.add(row)
        row.value, row.updated_at = {"keys": keys}, self._clock()

    def _age(self, key: dict[str, Any]) -> timedelta:
        return self._clock() - datetime.fromisoformat(key["created_at"])

    def _is_expired(self, key: dict[str, Any]) -> bool:
        if key["retired_at"] is None:
            return False
        expires_at = datetime.fromisoformat(key["retired_at"]) + self._token_life + _GRACE
        return self._clock() > expires_at


def signing_ids(session: Session) -> list[str]:
    """The ids of the keys that were not replaced."""
    return [str(key["id"]) for key in _load(session) if key["retired_at"] is None]


def drop_keys(session: Session, kept: Collection[str], now: datetime) -> int:
    """Forget all keys but those that a restored database may sign with; returns how many.

    Tokens that the others have signed are no longer valid: those keys were replaced since, perhaps
    because somebody else had them.
    """
    row = session.get(FaceSettingRecord, TOKEN_KEYS)
    keys = _load(session)
    remaining = [key for key in keys if key["id"] in kept]
    if row is not None and remaining != keys:
        row.value, row.updated_at = {"keys": remaining}, now
    return len(keys) - len(remaining)


def _load(session: Session) -> list[dict[str, Any]]:
    row = session.get(FaceSettingRecord, TOKEN_KEYS)
    # Copies: SQLAlchemy notices a change of JSON only if another value is assigned.
    return [] if row is None else [dict(key) for key in row.value["keys"]]


def _purpose(key_id: str) -> str:
    return f"token key {key_id}"


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
