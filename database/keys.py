"""Keys: made, listed, rotated, revoked. Only a hash of each is kept.

SHA-256 and no slow hash: argon2 makes guessing dear where a secret can be guessed, as a password
can. These have 192 random bits; nobody guesses them at any speed, and a hash of half a
microsecond lets every request be checked without a cache of secrets in memory.
"""

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from contracts.errors import Conflict, NotFound, ValidationFailed
from contracts.keys import SCOPES, KeyInfo, MadeKey, NewKey, Scope, key_id_of
from contracts.pages import Page
from database.audit import By, place_of, record
from database.engine import reading, writing
from database.idempotency import Answer, IdempotencyKey, lookup, remember
from database.tables import KeyRecord, KeyRevisionRecord

_PUBLIC_BYTES, _SECRET_BYTES = 6, 24


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What a request is checked against.

    Attributes:
        info: All but the secret.
        digest: sha256 of the whole key, 32 bytes.
    """

    info: KeyInfo
    digest: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All keys at one moment.

    Attributes:
        revision: Grows with every change.
        keys: By id, those that were not revoked; one may have expired.
        ever: Keys that were ever made, revoked ones too.
    """

    revision: int
    keys: Mapping[str, StoredKey]
    ever: int


def digest_of(key: str) -> bytes:
    """What is kept of a key: its sha256."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class Keys:
    """The table of keys. Every method is one transaction; Unavailable without a database."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def create(self, new: NewKey, *, by: By, asked: IdempotencyKey | None = None) -> MadeKey:
        """Make a key; its text is in the answer and nowhere else.

        Args:
            new: What it may do.
            by: Who makes it.
            asked: The Idempotency-Key of the request. Sent again, the first key is described
                without its text.

        Raises:
            ValidationFailed: It would have expired already.
            IdempotencyConflict: The Idempotency-Key belongs to another request.
        """
        try:
            return self._create(new, by, asked)
        except IntegrityError:
            # The same request came twice at once, and the other was first.
            return self._create(new, by, asked)

    def _create(self, new: NewKey, by: By, asked: IdempotencyKey | None) -> MadeKey:
        now = self._clock()
        if new.expires_at is not None and new.expires_at <= now:
            raise ValidationFailed("expires_at lies in the past.")
        with writing(self._engine) as session:
            if asked and (earlier := lookup(session, asked, now)):
                return MadeKey.model_validate(earlier.body)
            made = _add(session, new, now)
            record(session, by, "key_created", _subject(made), now)
            _remember(session, asked, made, now)
        return made

    def rotate(
        self, key_id: str, grace: timedelta, *, by: By, asked: IdempotencyKey | None = None
    ) -> MadeKey:
        """Make a key that may do the same, and let the old one end after `grace`.

        Args:
            key_id: The old one.
            grace: How long that works on.
            by: Who asks.
            asked: As for `create`.

        Raises:
            NotFound: There is no such key.
            Conflict: It was revoked or has expired: there is nothing left to hand over.
            IdempotencyConflict: The Idempotency-Key belongs to another request.
        """
        try:
            return self._rotate(key_id, grace, by, asked)
        except IntegrityError:
            return self._rotate(key_id, grace, by, asked)

    def _rotate(
        self, key_id: str, grace: timedelta, by: By, asked: IdempotencyKey | None
    ) -> MadeKey:
        now = self._clock()
        with writing(self._engine) as session:
            if asked and (earlier := lookup(session, asked, now)):
                return MadeKey.model_validate(earlier.body)
            old = _find(session, key_id)
            if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
                raise Conflict("That key works no longer. Make a new one.")
            info = _info(old)
            new = NewKey(**info.model_dump(include=set(NewKey.model_fields)))
            made = _add(session, new, now)
            ends = now + grace
            old.expires_at = ends if old.expires_at is None else min(ends, old.expires_at)
            record(session, by, "key_rotated", f"{key_id} to {made.id}", now)
            _remember(session, asked, made, now)
        return made

    def revoke(self, key_id: str, *, by: By) -> None:
        """End a key for good; one that was revoked before stays so.

        Raises:
            NotFound: There is no such key.
        """
        now = self._clock()
        with writing(self._engine) as session:
            row = _find(session, key_id)
            if row.revoked_at is None:
                row.revoked_at = now
                _raise_revision(session)
                record(session, by, "key_revoked", _subject(_info(row)), now)

    def list(self, *, limit: int = 50, cursor: str | None = None) -> Page[KeyInfo]:
        """Some keys, newest first, revoked and expired ones too.

        Raises:
            ValidationFailed: The cursor is none of ours.
        """
        query = select(KeyRecord).order_by(KeyRecord.place.desc()).limit(limit + 1)
        if cursor is not None:
            query = query.where(KeyRecord.place < place_of(cursor))
        with reading(self._engine) as session:
            rows = session.scalars(query).all()
        following = str(rows[limit - 1].place) if len(rows) > limit else None
        return Page(items=[_info(row) for row in rows[:limit]], next_cursor=following)

    def snapshot(self, known: int | None = None) -> Snapshot | None:
        """All keys that were not revoked; None if nothing changed since revision `known`."""
        with reading(self._engine) as session:
            row = session.get(KeyRevisionRecord, 1)
            revision = 0 if row is None else row.number
            if revision == known:
                return None
            rows = session.scalars(select(KeyRecord).where(KeyRecord.revoked_at.is_(None))).all()
            ever = session.scalar(select(func.count()).select_from(KeyRecord)) or 0
        stored = {one.id: StoredKey(_info(one), bytes.fromhex(one.digest)) for one in rows}
        return Snapshot(revision, stored, ever)

    def note_use(self, used: Mapping[str, datetime]) -> None:
        """Remember when keys were last used; the revision stays, since what they may do does."""
        with writing(self._engine) as session:
            for key_id, moment in used.items():
                session.execute(
                    update(KeyRecord).where(KeyRecord.id == key_id).values(last_used_at=moment)
                )


def _add(session: Session, new: NewKey, now: datetime) -> MadeKey:
    public = secrets.token_hex(_PUBLIC_BYTES)
    key = f"opsin_{public}_{secrets.token_hex(_SECRET_BYTES)}"
    row = KeyRecord(
        id=key_id_of(public),
        name=new.name,
        digest=digest_of(key).hex(),
        scopes=",".join(scope for scope in SCOPES if scope in new.scopes),
        rate_per_minute=new.rate_per_minute,
        created_at=now,
        expires_at=new.expires_at,
    )
    session.add(row)
    _raise_revision(session)
    session.flush()
    return MadeKey(**_info(row).model_dump(), key=key)


def _remember(session: Session, asked: IdempotencyKey | None, made: MadeKey, now: datetime) -> None:
    """Keep the answer for who asks again, without the key's text."""
    if asked:
        body = made.model_dump(mode="json") | {"key": None}
        remember(session, asked, Answer(201, body), now)


def _raise_revision(session: Session) -> None:
    """In one statement, so that two transactions cannot raise it to the same number."""
    raised = update(KeyRevisionRecord).values(number=KeyRevisionRecord.number + 1)
    if session.connection().execute(raised).rowcount == 0:
        session.add(KeyRevisionRecord(only=1, number=1))


def _find(session: Session, key_id: str) -> KeyRecord:
    row = session.scalars(select(KeyRecord).where(KeyRecord.id == key_id)).first()
    if row is None:
        raise NotFound("There is no key of that id. `GET /v1/keys` lists all.")
    return row


def _info(row: KeyRecord) -> KeyInfo:
    scopes: list[Scope] = [scope for scope in SCOPES if scope in row.scopes.split(",")]
    return KeyInfo(
        id=row.id,
        name=row.name,
        scopes=scopes,
        rate_per_minute=row.rate_per_minute,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )


def _subject(key: KeyInfo) -> str:
    return f"{key.id} '{key.name}' ({', '.join(key.scopes)})"
