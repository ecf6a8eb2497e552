"""The keys that sign the tokens of face logins: made, renewed and retired in the database.

There they serve all API processes alike. The private halves are sealed by the master key. A key
that was replaced stays public until the last token that it signed has expired.
"""

import base64
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from contracts.errors import Unavailable
from database.crypto.envelope import Sealer, SealError
from database.engine import alone, reading, writing
from database.tables import FaceSettingRecord

_KEY = "token_keys"
_LOCK = 0x0951_0003  # see `database.engine.alone`
_GRACE = timedelta(minutes=5)  # clocks differ, and a token may have been asked for just before


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
    """One row that holds them all. Unavailable without a database.

    Args:
        engine: The database.
        clock: What time it is.
        sealer: The master keys.
        max_age: How old a key may get that signs.
        token_life: How long what it signed is good for.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], datetime],
        sealer: Sealer,
        *,
        max_age: timedelta,
        token_life: timedelta,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._sealer = sealer
        self._max_age = max_age
        self._token_life = token_life

    def signing(self) -> SigningKey:
        """The key that signs; a new one is made when there is none, or it has grown too old.

        Raises:
            Unavailable: The master key that sealed it is not here.
        """
        with reading(self._engine) as session:
            kept = _kept(session)
        if not kept or self._age(kept[0]) > self._max_age:
            kept = self._renewed(self._max_age)
        try:
            raw = self._sealer.open(base64.b64decode(kept[0]["sealed"]), _purpose(kept[0]["id"]))
        except SealError as error:
            raise Unavailable(
                "Tokens cannot be signed: a key is missing. Tell the operator.", retry_after=60
            ) from error
        return SigningKey(kept[0]["id"], Ed25519PrivateKey.from_private_bytes(raw))

    def public(self) -> list[PublicKey]:
        """All keys whose tokens may still be good, the one that signs first."""
        with reading(self._engine) as session:
            kept = _kept(session)
        return [
            PublicKey(
                one["id"], Ed25519PublicKey.from_public_bytes(base64.b64decode(one["public"]))
            )
            for one in kept
            if not self._is_over(one)
        ]

    def rotate(self) -> str:
        """Let a fresh key sign from now on; its id."""
        kept = self._renewed(timedelta(0))
        return str(kept[0]["id"])

    def reseal(self) -> int:
        """Seal all of them by the first master key; how many there are.

        Raises:
            SealError: A master key is not here.
        """
        with writing(self._engine) as session:
            alone(session.connection(), _LOCK)
            kept = _kept(session)
            for one in kept:
                raw = self._sealer.open(base64.b64decode(one["sealed"]), _purpose(one["id"]))
                one["sealed"] = _text(self._sealer.seal(raw, _purpose(one["id"])))
            self._keep(session, kept)
        return len(kept)

    def _renewed(self, max_age: timedelta) -> list[dict[str, Any]]:
        """The keys, the first of them younger than that; processes take turns."""
        with writing(self._engine) as session:
            alone(session.connection(), _LOCK)
            kept = _kept(session)
            if kept and max_age and self._age(kept[0]) <= max_age:
                return kept  # another process was quicker
            now = self._clock().isoformat()
            for one in kept:
                one["retired_at"] = one["retired_at"] or now
            kept = [self._fresh(now), *(one for one in kept if not self._is_over(one))]
            self._keep(session, kept)
        return kept

    def _fresh(self, now: str) -> dict[str, Any]:
        key_id = secrets.token_urlsafe(9)
        key = Ed25519PrivateKey.generate()
        return {
            "id": key_id,
            "public": _text(key.public_key().public_bytes_raw()),
            "sealed": _text(self._sealer.seal(key.private_bytes_raw(), _purpose(key_id))),
            "created_at": now,
            "retired_at": None,
        }

    def _keep(self, session: Session, kept: list[dict[str, Any]]) -> None:
        row = session.get(FaceSettingRecord, _KEY)
        if row is None:
            row = FaceSettingRecord(key=_KEY)
            session.add(row)
        row.value, row.updated_at = {"keys": kept}, self._clock()

    def _age(self, one: dict[str, Any]) -> timedelta:
        return self._clock() - datetime.fromisoformat(one["created_at"])

    def _is_over(self, one: dict[str, Any]) -> bool:
        if one["retired_at"] is None:
            return False
        gone = datetime.fromisoformat(one["retired_at"]) + self._token_life + _GRACE
        return self._clock() > gone


def _kept(session: Session) -> list[dict[str, Any]]:
    row = session.get(FaceSettingRecord, _KEY)
    # Copies: SQLAlchemy sees a change of JSON only when another value is put there.
    return [] if row is None else [dict(one) for one in row.value["keys"]]


def _purpose(key_id: str) -> str:
    return f"token key {key_id}"


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
