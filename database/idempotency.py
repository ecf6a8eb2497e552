"""Responses that are kept for a day, so that a repeated request gets the first one's response.

`lookup` and `remember` run inside the caller's transaction. The response is written in the same one
as what the request made, so that neither can exist without the other.
"""

import json
import math
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, and_, delete, select, tuple_
from sqlalchemy.orm import Session

from contracts.errors import IdempotencyConflict
from contracts.training.datasets import LastAnswer
from database.engine import reading, writing
from database.paging import length_of
from database.space import pause, steps
from database.tables import AnswerRecord

LIFETIME = timedelta(hours=24)
_ROWS = 500  # at a time, of which each has kilobytes


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


def delete_expired(engine: Engine, now: datetime, until: float = math.inf) -> int:
    """Delete the responses older than a day, in several transactions; returns their number.

    Args:
        now: By the clock of the responses.
        until: By `time.monotonic`, when to stop, though after one transaction at least.
    """
    row, total = AnswerRecord, 0
    oldest = (
        select(row.key, row.scope, length_of(row.body))
        .where(row.created_at <= now - LIFETIME)
        .order_by(row.created_at)
        .limit(_ROWS)
    )
    while True:
        with reading(engine) as session:
            sizes = {(key, scope): int(size) for key, scope, size in session.execute(oldest)}
        if not sizes:
            return total
        for step in steps(sizes.items()):
            with writing(engine) as session:
                # Not one that has replaced an expired one meanwhile.
                is_old = and_(
                    tuple_(row.key, row.scope).in_(step), row.created_at <= now - LIFETIME
                )
                session.connection().execute(delete(row).where(is_old))
            total += len(step)
            if time.monotonic() > until:
                return total
            pause(engine)
