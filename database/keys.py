"""API keys: created, listed, rotated, revoked. Only a hash of each is stored.

The hash is SHA-256, not a slow one. Slow hashes such as argon2 make it expensive to guess secrets
that can be guessed, like passwords. These keys have 192 random bits, which cannot be guessed at
any speed; a hash of half a microsecond lets every request be checked without keeping secrets in
memory.
"""

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Engine, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from contracts.errors import Conflict, NotFound, ValidationFailed
from contracts.keys import KEY_ID, SCOPES, KeyInfo, MadeKey, NewKey, Scope, key_id_of
from contracts.pages import Page
from database.audit import Actor, record
from database.engine import reading, writing
from database.idempotency import IdempotencyKey, StoredResponse, lookup, remember
from database.paging import row_number
from database.tables import AuditRecord, KeyRecord, KeyRevisionRecord

_PUBLIC_BYTES, _SECRET_BYTES = 6, 24


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What a request is checked against.

    Attributes:
        info: Everything but the secret.
        digest: sha256 of the whole key, 32 bytes.
    """

    info: KeyInfo
    digest: bytes


class KeyRevision(NamedTuple):
    """Equal only if no key was changed in between.

    The number alone would not do: a replica that becomes the primary without the last changes
    gives their numbers to others. Every change also writes a line of the audit log, and the newest
    line, with its time, is another one then.

    Attributes:
        number: Of the changes so far.
        line: The newest line of the audit log; None if it is empty.
        at: When that was written.
    """

    number: int
    line: int | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class KeySnapshot:
    """All keys at one moment.

    Attributes:
        revision: Another one after every change.
        keys: The keys that were not revoked, by id; some may have expired.
        ever_created: The number of keys ever created, including revoked ones.
    """

    revision: KeyRevision
    keys: Mapping[str, StoredKey]
    ever_created: int


def digest_of(key: str) -> bytes:
    """The sha256 of a key, which is all that is stored of its secret."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class Keys:
    """The table of keys. Every method is one transaction; Unavailable without a database."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def now(self) -> datetime:
        """The time by the clock that expiries are written with."""
        return self._clock()

    def create(
        self, new: NewKey, *, actor: Actor, idempotency: IdempotencyKey | None = None
    ) -> MadeKey:
        """Create a key. Its text is in the result and is not stored.

        Args:
            new: Its name, scopes and limits.
            actor: For the audit log.
            idempotency: If the same was passed before, the result describes the first key, without
                its text.

        Raises:
            ValidationFailed: It would have expired already.
            IdempotencyConflict: The Idempotency-Key belongs to another request.
        """
        try:
            return self._create(new, actor, idempotency)
        except IntegrityError:
            # The same request came twice at once, and the other one committed first.
            return self._create(new, actor, idempotency)

    def _create(self, new: NewKey, actor: Actor, idempotency: IdempotencyKey | None) -> MadeKey:
        now = self._clock()
        if new.expires_at is not None and new.expires_at <= now:
            raise ValidationFailed("expires_at is in the past.")
        with writing(self._engine) as session:
            if idempotency and (earlier := lookup(session, idempotency, now)):
                return MadeKey.model_validate(earlier.body)
            made = _add(session, new, now)
            record(session, actor, "key_created", _subject(made), now)
            _remember(session, idempotency, made, now)
        return made

    def rotate(
        self,
        key_id: str,
        grace: timedelta,
        *,
        actor: Actor,
        idempotency: IdempotencyKey | None = None,
    ) -> MadeKey:
        """Create a key with the same scopes, and let the old one expire after `grace`.

        Args:
            key_id: The old key.
            grace: How long the old key remains valid.
            actor: For the audit log.
            idempotency: As for `create`.

        Raises:
            NotFound: There is no such key.
            Conflict: It was revoked or has expired.
            IdempotencyConflict: The Idempotency-Key belongs to another request.
        """
        try:
            return self._rotate(key_id, grace, actor, idempotency)
        except IntegrityError:
            return self._rotate(key_id, grace, actor, idempotency)

    def _rotate(
        self, key_id: str, grace: timedelta, actor: Actor, idempotency: IdempotencyKey | None
    ) -> MadeKey:
        with writing(self._engine) as session:
            old = _find(session, key_id)
            now = self._clock()  # finding it may have waited for another change
            # Only now: a request that is sent twice at once would find the old key expired.
            if idempotency and (earlier := lookup(session, idempotency, now)):
                return MadeKey.model_validate(earlier.body)
            if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
                raise Conflict("That key is no longer valid. Create a new one.")
            info = _info(old)
            new = NewKey(**info.model_dump(include=set(NewKey.model_fields)))
            made = _add(session, new, now)
            ends = now + grace
            old.expires_at = ends if old.expires_at is None else min(ends, old.expires_at)
            record(session, actor, "key_rotated", f"{key_id} to {made.id}", now)
            _remember(session, idempotency, made, now)
        return made

    def revoke(self, key_id: str, *, actor: Actor) -> None:
        """Revoke a key for good; does nothing if it was revoked before.

        Raises:
            NotFound: There is no such key.
        """
        now = self._clock()
        with writing(self._engine) as session:
            row = _find(session, key_id)
            if row.revoked_at is None:
                row.revoked_at = now
                _increment_revision(session)
                record(session, actor, "key_revoked", _subject(_info(row)), now)

    def reopen(self, *, actor: Actor) -> None:
        """Revoke and forget all keys, as if none had ever been created.

        A service that may do so then lets this machine in without a key. The audit log keeps who
        created and revoked which key.
        """
        now = self._clock()
        with writing(self._engine) as session:
            rows = session.scalars(select(KeyRecord).with_for_update()).all()
            for row in rows:
                if row.revoked_at is None:
                    record(session, actor, "key_revoked", _subject(_info(row)), now)
                session.delete(row)
            if rows:
                _increment_revision(session)
                record(session, actor, "key_revoked", "all keys; none is needed now", now)

    def list(self, *, limit: int = 50, cursor: str | None = None) -> Page[KeyInfo]:
        """A page of keys, newest first, including revoked and expired ones.

        Raises:
            ValidationFailed: The cursor is not valid.
        """
        query = select(KeyRecord).order_by(KeyRecord.place.desc()).limit(limit + 1)
        if cursor is not None:
            query = query.where(KeyRecord.place < row_number(cursor))
        with reading(self._engine) as session:
            rows = session.scalars(query).all()
        next_cursor = str(rows[limit - 1].place) if len(rows) > limit else None
        return Page(items=[_info(row) for row in rows[:limit]], next_cursor=next_cursor)

    def snapshot(self, known: KeyRevision | None = None) -> KeySnapshot | None:
        """All keys that were not revoked; None if nothing changed since revision `known`."""
        with reading(self._engine) as session:
            # Read first: a later change is then read twice rather than missed.
            revision = _revision(session)
            if revision == known:
                return None
            rows = session.scalars(select(KeyRecord).where(KeyRecord.revoked_at.is_(None))).all()
            ever_created = session.scalar(select(func.count()).select_from(KeyRecord)) or 0
        stored = {row.id: StoredKey(_info(row), bytes.fromhex(row.digest)) for row in rows}
        return KeySnapshot(revision, stored, ever_created)

    def record_use(self, used: Mapping[str, datetime]) -> None:
        """Store when keys were last used. The revision stays, since no permission changes."""
        with writing(self._engine) as session:
            # In one order, so that two processes do not wait for each other's rows.
            for key_id, moment in sorted(used.items()):
                session.execute(
                    update(KeyRecord).where(KeyRecord.id == key_id).values(last_used_at=moment)
                )


def ends_of_keys(session: Session) -> dict[str, datetime | None]:
    """The keys that end, and when; None for one that was revoked."""
    query = select(KeyRecord.id, KeyRecord.expires_at, KeyRecord.revoked_at)
    return {
        row.id: None if row.revoked_at is not None else row.expires_at
        for row in session.execute(query)
        if row.revoked_at is not None or row.expires_at is not None
    }


def forgotten_keys(session: Session) -> dict[str, datetime | None]:
    """The keys that were revoked and have no row any more, as `ends_of_keys` returns them."""
    revoked = select(AuditRecord.subject).where(AuditRecord.action == "key_revoked")
    ids = {subject.partition(" ")[0] for subject in session.scalars(revoked)}
    known = set(session.scalars(select(KeyRecord.id)))
    return {key_id: None for key_id in sorted(ids - known) if re.fullmatch(KEY_ID, key_id)}


def restrict_keys(
    session: Session, ends: Mapping[str, datetime | None], now: datetime
) -> list[str]:
    """Let keys end no later than that; returns those that changed, as the audit log names them."""
    changed = []
    for row in session.scalars(select(KeyRecord).where(KeyRecord.revoked_at.is_(None))):
        if row.id not in ends:
            continue
        end = ends[row.id]
        if end is None:
            row.revoked_at = now
        elif row.expires_at is None or row.expires_at > end:
            row.expires_at = end
        else:
            continue
        changed.append(_subject(_info(row)))
    if changed:
        _increment_revision(session)
    return changed


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
    _increment_revision(session)
    session.flush()
    return MadeKey(**_info(row).model_dump(), key=key)


def _remember(
    session: Session, idempotency: IdempotencyKey | None, made: MadeKey, now: datetime
) -> None:
    """Store the response for a repeated request, without the key's text."""
    if idempotency:
        body = made.model_dump(mode="json") | {"key": None}
        remember(session, idempotency, StoredResponse(201, body), now)


def _revision(session: Session) -> KeyRevision:
    row = session.get(KeyRevisionRecord, 1)
    newest = select(AuditRecord.id, AuditRecord.at).order_by(AuditRecord.id.desc()).limit(1)
    return KeyRevision(0 if row is None else row.number, *(session.execute(newest).first() or ()))


def _increment_revision(session: Session) -> None:
    """In one statement, so that two transactions cannot set the same number.

    The caller writes a line of the audit log in the same transaction, see `KeyRevision`.
    """
    incremented = update(KeyRevisionRecord).values(number=KeyRevisionRecord.number + 1)
    if session.connection().execute(incremented).rowcount == 0:
        session.add(KeyRevisionRecord(only=1, number=1))


def _find(session: Session, key_id: str) -> KeyRecord:
    """The row of a key, locked until the transaction ends, because the caller changes it."""
    query = select(KeyRecord).where(KeyRecord.id == key_id).with_for_update()
    row = session.scalars(query).first()
    if row is None:
        raise NotFound("There is no key with that id. `GET /v1/keys` lists all keys.")
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
