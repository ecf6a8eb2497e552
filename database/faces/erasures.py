"""Erasures: begun in the transaction that deletes the person, and finished when nothing is left.

The mark is the audit's own line, whose outcome is `erasing` until all that lies outside the
database is gone too: so an erasure that failed half-way, or whose process was killed, is found
again, by a second request or by the next round that looks for them.
"""

from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from sqlalchemy import Engine, and_, delete, or_, select, update
from sqlalchemy.orm import Session

from contracts.errors import SubjectNotFound
from database.engine import reading, writing
from database.faces.template_rows import find
from database.tables import AnswerRecord, FaceEventRecord, JobRecord, SubjectRecord

SCOPE = "subject"
"""Of the Idempotency-Keys under which subjects are added."""
BEGUN, DONE = "erasing", "erased"
_KIND = "erasure"
_ROWS_AT_ONCE = 500


class Erasures:
    """Who was erased, and of whom something may be left. Unavailable without a database.

    Args:
        engine: The database.
        clock: What time it is.
    """

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def require(self, subject_id: str) -> None:
        """Whether there is anything to erase.

        Raises:
            SubjectNotFound: There is no such subject, and no erasure of it that is unfinished.
        """
        with reading(self._engine) as session:
            if not is_unfinished(session, subject_id):
                find(session, subject_id)

    def pending(self, again: timedelta) -> list[str]:
        """The subjects whose erasure is unfinished or younger than `again`, oldest first.

        Who was at work for a subject when it was erased may write of it a little later.
        """
        row = FaceEventRecord
        young = row.at >= self._clock() - again
        query = select(row.subject_id).where(row.kind == _KIND, or_(row.outcome == BEGUN, young))
        with reading(self._engine) as session:
            found = session.scalars(query.order_by(row.id))
            return list(dict.fromkeys(one for one in found if one is not None))

    def of(self, ids: Collection[str]) -> set[str]:
        """Those of some subjects that were erased, by the audit; others may be another database's.

        A line of the audit goes by its age (OPSIN_AUDIT_DAYS), long after its erasure was finished.
        """
        row, asked, erased = FaceEventRecord, list(ids), set[str]()
        with reading(self._engine) as session:
            for start in range(0, len(asked), _ROWS_AT_ONCE):
                some = asked[start : start + _ROWS_AT_ONCE]
                there = select(SubjectRecord.id).where(SubjectRecord.id.in_(some))
                gone = select(row.subject_id).where(row.kind == _KIND, row.subject_id.in_(some))
                told = {one for one in session.scalars(gone) if one is not None}
                erased |= told - set(session.scalars(there))
        return erased

    def finish(self, subject_id: str) -> None:
        """Say that nothing is left of it."""
        row = FaceEventRecord
        done = update(row).where(
            row.kind == _KIND, row.subject_id == subject_id, row.outcome == BEGUN
        )
        with writing(self._engine) as session:
            session.execute(done.values(outcome=DONE))


def begin(session: Session, subject_id: str, now: datetime) -> None:
    """Put the mark, in the transaction that deletes the subject."""
    session.add(FaceEventRecord(at=now, kind=_KIND, subject_id=subject_id, outcome=BEGUN))


def is_unfinished(session: Session, subject_id: str) -> bool:
    """Whether an erasure of the subject has begun and not ended."""
    row = FaceEventRecord
    query = select(row.id).where(
        row.kind == _KIND, row.subject_id == subject_id, row.outcome == BEGUN
    )
    return session.scalars(query).first() is not None


def require_unfinished(session: Session, subject_id: str) -> None:
    """Refuse to go on with an erasure that there is not.

    Raises:
        SubjectNotFound: None has begun, or it has ended.
    """
    if not is_unfinished(session, subject_id):
        raise SubjectNotFound("There is no subject of that id. `GET /v1/faces/subjects` lists all.")


def forget_traces(session: Session, subject_id: str) -> tuple[str, ...]:
    """Delete what speaks of a subject in tables that are not about subjects; its jobs' ids."""
    event, job, answer = FaceEventRecord, JobRecord, AnswerRecord
    session.execute(
        update(event).where(event.subject_id == subject_id).values(digest=None, device=None)
    )
    of_subject = and_(job.kind == "enrollment", job.request["subject_id"].as_string() == subject_id)
    jobs = tuple(session.scalars(delete(job).where(of_subject).returning(job.id)))
    answers = [(SCOPE, subject_id), *(("enrollment", job_id) for job_id in jobs)]
    for scope, body_id in answers:
        session.execute(
            delete(answer).where(answer.scope == scope, answer.body["id"].as_string() == body_id)
        )
    return jobs
