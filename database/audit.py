"""The audit log: who did what to what, when. Lines are added, and deleted only by age.

Changes in the database are recorded in the same transaction (`record`); changes elsewhere, such as
in the model store, are recorded right after them (`Audit.write`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from contracts.audit import Action, AuditEntry
from contracts.pages import Page
from database.engine import reading, writing
from database.paging import row_number
from database.space import delete_in_steps
from database.tables import AuditRecord

_MAX_SUBJECT_LENGTH = 300


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change.

    Attributes:
        name: A key's id, or one of the names in `contracts.audit`.
        request_id: The request that makes the change; None outside a request.
    """

    name: str
    request_id: str | None = None


COMMAND = Actor("command")


def record(session: Session, actor: Actor, action: Action, subject: str, now: datetime) -> None:
    """Add a line within the caller's transaction."""
    session.add(
        AuditRecord(
            at=now,
            actor=actor.name,
            action=action,
            subject=subject[:_MAX_SUBJECT_LENGTH],
            request_id=actor.request_id,
        )
    )


class Audit:
    """The audit log. Every method is one transaction; Unavailable without a database."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def write(self, actor: Actor, action: Action, subject: str) -> None:
        """Add a line."""
        with writing(self._engine) as session:
            record(session, actor, action, subject, self._clock())

    def list(
        self, *, action: Action | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[AuditEntry]:
        """A page of lines, newest first.

        Raises:
            ValidationFailed: The cursor is not valid.
        """
        query = select(AuditRecord).order_by(AuditRecord.id.desc()).limit(limit + 1)
        if action is not None:
            query = query.where(AuditRecord.action == action)
        if cursor is not None:
            query = query.where(AuditRecord.id < row_number(cursor))
        with reading(self._engine) as session:
            rows = session.scalars(query).all()
        next_cursor = str(rows[limit - 1].id) if len(rows) > limit else None
        return Page(items=[_entry(row) for row in rows[:limit]], next_cursor=next_cursor)

    def delete_old(self, days: int, now: datetime | None = None) -> int:
        """Delete the lines older than that many days; returns their number.

        Args:
            days: Their age.
            now: By `database.deletion_clock`; the clock's if None.
        """
        cutoff = (now or self._clock()) - timedelta(days=days)
        return delete_in_steps(self._engine, AuditRecord.id, AuditRecord.at < cutoff)


def _entry(row: AuditRecord) -> AuditEntry:
    return AuditEntry.model_validate(row, from_attributes=True)
