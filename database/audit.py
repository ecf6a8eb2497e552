"""The audit log: who did what to what, when. Lines are added, and deleted by age alone.

What happens in the database is written in the same transaction (`record`); what happens elsewhere,
as in the model store, is written right after it (`Audit.write`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import Session

from contracts.audit import Action, AuditEntry
from contracts.errors import ValidationFailed
from contracts.pages import Page
from database.engine import reading, writing
from database.tables import AuditRecord

_MOST_SUBJECT = 300


@dataclass(frozen=True, slots=True)
class By:
    """Who acts.

    Attributes:
        actor: A key's id, or one of the names in `contracts.audit`.
        request_id: The request in which it happens, if it is one.
    """

    actor: str
    request_id: str | None = None


COMMAND = By("command")


def record(session: Session, by: By, action: Action, subject: str, now: datetime) -> None:
    """Add a line within the caller's transaction."""
    session.add(
        AuditRecord(
            at=now,
            actor=by.actor,
            action=action,
            subject=subject[:_MOST_SUBJECT],
            request_id=by.request_id,
        )
    )


class Audit:
    """The log. Every method is one transaction; Unavailable without a database."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def write(self, by: By, action: Action, subject: str) -> None:
        """Add a line."""
        with writing(self._engine) as session:
            record(session, by, action, subject, self._clock())

    def list(
        self, *, action: Action | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[AuditEntry]:
        """Some lines, newest first.

        Raises:
            ValidationFailed: The cursor is none of ours.
        """
        query = select(AuditRecord).order_by(AuditRecord.id.desc()).limit(limit + 1)
        if action is not None:
            query = query.where(AuditRecord.action == action)
        if cursor is not None:
            query = query.where(AuditRecord.id < place_of(cursor))
        with reading(self._engine) as session:
            rows = session.scalars(query).all()
        following = str(rows[limit - 1].id) if len(rows) > limit else None
        return Page(items=[_entry(row) for row in rows[:limit]], next_cursor=following)

    def forget_old(self, days: int) -> int:
        """Delete the lines that are older than so many days; returns how many."""
        old = delete(AuditRecord).where(AuditRecord.at < self._clock() - timedelta(days=days))
        with writing(self._engine) as session:
            return session.connection().execute(old).rowcount


def place_of(cursor: str) -> int:
    """The row's number that a cursor is.

    Raises:
        ValidationFailed: It is none of ours.
    """
    if not (cursor.isascii() and cursor.isdecimal() and 0 < len(cursor) < 10):
        raise ValidationFailed("The cursor is none of ours. Use next_cursor of the page before.")
    return int(cursor)


def _entry(row: AuditRecord) -> AuditEntry:
    return AuditEntry.model_validate(row, from_attributes=True)
