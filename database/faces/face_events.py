"""The audit log of faces: requests and decisions, without images, vectors or names.

Devices and uploads are stored as keyed hashes, so that equal ones can be recognized, while a reader
of the table without the key can neither try addresses nor search for the hash of an image.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import Engine, and_, select
from sqlalchemy.orm import Session

from contracts.faces.subjects import FaceEvent, NewEvent
from contracts.pages import Page
from database.crypto.keyed_hash import KeyedHash
from database.engine import reading, writing
from database.faces.privacy.erasures import BEGUN
from database.paging import decode_number, encode_cursor, require_limit
from database.space import delete_in_steps
from database.tables import FaceEventRecord, SubjectRecord


class FaceEvents:
    """The table of events. Raises `Unavailable` if the database does not answer."""

    def __init__(
        self, engine: Engine, clock: Callable[[], datetime], keyed_hash: KeyedHash
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._keyed_hash = keyed_hash

    def record(self, event: NewEvent) -> None:
        """Write an entry; without the hashes if the subject was erased in the meantime."""
        digest = self._keyed_hash.hexdigest
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
            if event.subject_id is not None and not _exists(session, event.subject_id):
                row.device = row.digest = None
            session.add(row)

    def delete_old(self, days: int, now: datetime | None = None) -> int:
        """Delete entries older than some days; returns how many.

        The entry of an unfinished erasure is what records it, and stays until it is finished.

        Args:
            days: Their age.
            now: By `database.deletion_clock`; the clock's if None.
        """
        row, cutoff = FaceEventRecord, (now or self._clock()) - timedelta(days=days)
        old = and_(row.at < cutoff, row.outcome != BEGUN)
        return delete_in_steps(self._engine, row.id, old)

    def list(
        self, *, subject_id: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[FaceEvent]:
        """A page of entries, newest first.

        Raises:
            ValidationFailed: The cursor is invalid, or the limit not in 1 to 200.
        """
        require_limit(limit)
        query = select(FaceEventRecord).order_by(FaceEventRecord.id.desc())
        if subject_id is not None:
            query = query.where(FaceEventRecord.subject_id == subject_id)
        if cursor is not None:
            query = query.where(FaceEventRecord.id < decode_number(cursor))
        with reading(self._engine) as session:
            rows = session.scalars(query.limit(limit + 1)).all()
        page = rows[:limit]
        next_cursor = encode_cursor(page[-1].id) if len(rows) > limit else None
        return Page(items=[_event(row) for row in page], next_cursor=next_cursor)


def _exists(session: Session, subject_id: str) -> bool:
    """Whether the subject exists; an erasure of it waits until the transaction ends."""
    query = select(SubjectRecord.id).where(SubjectRecord.id == subject_id)
    return session.scalar(query.with_for_update(read=True)) is not None


def _event(row: FaceEventRecord) -> FaceEvent:
    return FaceEvent.model_validate(row, from_attributes=True)
