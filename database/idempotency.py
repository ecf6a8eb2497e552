"""The same request twice, one answer: the first one, kept for a day.

These functions run inside the caller's transaction. The row is written in the same one as what
the request made, so that neither can exist without the other.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete
from sqlalchemy.orm import Session

from contracts.errors import IdempotencyConflict
from database.tables import AnswerRecord

LIFE = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What makes two requests the same one.

    Attributes:
        key: The header, as the client sent it, at most 255 characters.
        scope: Who asked and for what: the key of one client means nothing to another.
        digest: sha256 of the body and of the parameters, hex.
    """

    key: str
    scope: str
    digest: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the first request was answered."""

    status: int
    body: dict[str, Any]


def lookup(session: Session, asked: IdempotencyKey, now: datetime) -> Answer | None:
    """The first answer to that key, if there was one within the last day.

    Raises:
        IdempotencyConflict: The key was used for another request.
    """
    row = session.get(AnswerRecord, (asked.key, asked.scope))
    if row is None or row.created_at <= now - LIFE:
        return None
    if row.digest != asked.digest:
        raise IdempotencyConflict(
            "This Idempotency-Key was sent with another request in the last 24 hours. "
            "Use a new key for a new request."
        )
    return Answer(row.status, row.body)


def remember(session: Session, asked: IdempotencyKey, answer: Answer, now: datetime) -> None:
    """Keep the answer; one that is older than a day makes room for it.

    Raises:
        sqlalchemy.exc.IntegrityError: Another transaction has just answered the same key.
    """
    session.execute(
        delete(AnswerRecord).where(
            AnswerRecord.key == asked.key,
            AnswerRecord.scope == asked.scope,
            AnswerRecord.created_at <= now - LIFE,
        )
    )
    session.expire_all()
    session.add(
        AnswerRecord(
            key=asked.key,
            scope=asked.scope,
            digest=asked.digest,
            status=answer.status,
            body=answer.body,
            created_at=now,
        )
    )
    session.flush()


def forget_old(session: Session, now: datetime) -> int:
    """Delete the answers that are older than a day; returns how many."""
    old = delete(AnswerRecord).where(AnswerRecord.created_at <= now - LIFE)
    return session.connection().execute(old).rowcount
