"""Responses that are kept for a day, so that a repeated request gets the first one's response.

These functions run inside the caller's transaction. The response is written in the same one as
what the request made, so that neither can exist without the other.
"""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete
from sqlalchemy.orm import Session

from contracts.errors import IdempotencyConflict
from contracts.training.datasets import LastAnswer
from database.tables import AnswerRecord

LIFETIME = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What makes two requests the same one.

    Attributes:
        key: The client's `Idempotency-Key` header, at most 255 characters.
        scope: What was requested, so that one key may be used for requests of several kinds.
        digest: sha256 of the body and of the parameters, hex.
    """

    key: str
    scope: str
    digest: str

    def answer(self, body: dict[str, Any], now: datetime) -> LastAnswer:
        """The response to the request, for the listing of the dataset that it changed."""
        return LastAnswer(
            key=self.key, scope=self.scope, digest=self.digest, at=now, body=json.dumps(body)
        )


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """The response to the first request."""

    status: int
    body: dict[str, Any]


def lookup(session: Session, idempotency: IdempotencyKey, now: datetime) -> StoredResponse | None:
    """The first response for that key, if there was one within the last day.

    Raises:
        IdempotencyConflict: The key was used for another request.
    """
    row = session.get(AnswerRecord, (idempotency.key, idempotency.scope))
    if row is None or row.created_at <= now - LIFETIME:
        return None
    if row.digest != idempotency.digest:
        raise IdempotencyConflict(
            "This Idempotency-Key was sent with another request in the last 24 hours. "
            "Use a new key for a new request."
        )
    return StoredResponse(row.status, row.body)


def remember(
    session: Session, idempotency: IdempotencyKey, response: StoredResponse, now: datetime
) -> None:
    """Store the response, replacing one that has expired.

    Raises:
        sqlalchemy.exc.IntegrityError: Another transaction has just stored one for the same key.
    """
    session.execute(
        delete(AnswerRecord).where(
            AnswerRecord.key == idempotency.key,
            AnswerRecord.scope == idempotency.scope,
            AnswerRecord.created_at <= now - LIFETIME,
        )
    )
    session.expire_all()
    session.add(
        AnswerRecord(
            key=idempotency.key,
            scope=idempotency.scope,
            digest=idempotency.digest,
            status=response.status,
            body=response.body,
            created_at=now,
        )
    )
    session.flush()


def delete_expired(session: Session, now: datetime) -> int:
    """Delete the responses older than a day; returns their number."""
    old = delete(AnswerRecord).where(AnswerRecord.created_at <= now - LIFETIME)
    return session.connection().execute(old).rowcount
