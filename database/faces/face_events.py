"""The audit of faces: who asked what and what was decided, without a picture, vector or name.

Devices and what was sent are kept as keyed digests: equal ones can be told, and who reads the table
without the key can neither try addresses nor look for the digest of a picture.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import Session

from contracts.faces.subjects import FaceEvent, NewEvent
from contracts.pages import Page
from database.crypto.keyed_hash import Digests
from database.engine import reading, writing
from database.faces.erasures import BEGUN
from database.paging import bad_cursor, cursor_of, place_of, require_limit
from database.tables import FaceEventRecord, SubjectRecord


class FaceEvents:
    """The table of events. Unavailable without a database.

    Args:
        engine: The database.
        clock: What time it is.
        digests: Makes the digests.
    """

    def __init__(self, engine: Engine, clock: Callable[[], datetime], digests: Digests) -> None:
        self._engine = engine
        self._clock = clock
        self._digests = digests

    def record(self, event: NewEvent) -> None:
        """Write a line; of a subject that is gone meanwhile without the digests."""
        digest = self._digests.of
        row = FaceEventRecord(
            at=self._clock(),
            kind=event.kind,
            subject_id=event.subject_id,
            outcome=event.outcome,
            reason=event.reason,
            device=digest(event.device.encode()) if event.device is not None else None,
            digest=digest(event.content) if event.content is not None else None,
            request_id=event.request_id,
        )
        with writing(self._engine) as session:
            if event.subject_id is not None and not _is_there(session, event.subject_id):
                row.device = row.digest = None
            session.add(row)

    def forget_old(self, days: int) -> int:
        """Delete the lines that are older than so many days; how many.

        An erasure that is unfinished is known by its line, which stays until it is finished.
        """
        row, eldest = FaceEventRecord, self._clock() - timedelta(days=days)
        old = delete(row).where(row.at < eldest, row.outcome != BEGUN)
        with writing(self._engine) as session:
            return session.connection().execute(old).rowcount

    def list(
        self, *, subject_id: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[FaceEvent]:
        """Some lines, newest first.

        Raises:
            ValidationFailed: The cursor is none of ours, or the limit not in 1 to 200.
        """
        require_limit(limit)
        query = select(FaceEventRecord).order_by(FaceEventRecord.id.desc())
        if subject_id is not None:
            query = query.where(FaceEventRecord.subject_id == subject_id)
        if cursor is not None:
            query = query.where(FaceEventRecord.id < _number(cursor))
        with reading(self._engine) as session:
            rows = session.scalars(query.limit(limit + 1)).all()
        shown = rows[:limit]
        following = cursor_of(shown[-1].id) if len(rows) > limit else None
        return Page(items=[_event(row) for row in shown], next_cursor=following)


def _is_there(session: Session, subject_id: str) -> bool:
    """Whether there is such a subject; an erasure waits until the transaction ends."""
    query = select(SubjectRecord.id).where(SubjectRecord.id == subject_id)
    return session.scalar(query.with_for_update(read=True)) is not None


def _number(cursor: str) -> int:
    (number,) = place_of(cursor, 1)
    if not isinstance(number, int) or not 0 <= number < 2**31:
        raise bad_cursor()
    return number


def _event(row: FaceEventRecord) -> FaceEvent:
    return FaceEvent.model_validate(row, from_attributes=True)
