"""Erasures, which begin in the transaction that deletes the subject and end when nothing is left.

An erasure is recorded by its entry in the audit log, whose outcome is `erasing` until everything
outside the database is deleted too. An erasure that failed half-way, or whose process was killed,
is thus found by a repeated request or by the next periodic check.
"""

from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from sqlalchemy import (
    ColumnElement,
    Engine,
    and_,
    delete,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from contracts.errors import SubjectNotFound
from database.engine import batches, reading, writing
from database.faces.template_rows import find_subject
from database.jobs.queries import end_jobs, enrollments_of
from database.json_text import JsonText
from database.tables import AnswerRecord, FaceEventRecord, JobRecord, SubjectRecord

SCOPE = "subject"
"""Scope of the Idempotency-Keys of requests that add subjects."""
BEGUN, DONE = "erasing", "erased"
REWRITTEN = "rewritten"
"""Reason of an unfinished erasure whose rows no table of PostgreSQL holds any more."""
_KIND = "erasure"
_ROWS = 1000
_DEVICE = "device of "


class Erasures:
    """Erasures that have begun or ended. Raises `Unavailable` if the database does not answer."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def require(self, subject_id: str) -> None:
        """Check that there is something to erase.

        Raises:
            SubjectNotFound: There is no such subject and no unfinished erasure of it.
        """
        with reading(self._engine) as session:
            if not is_unfinished(session, subject_id):
                find_subject(session, subject_id)

    def pending(self, max_age: timedelta) -> list[str]:
        """Ids of subjects whose erasure is unfinished or younger than `max_age`, oldest first.

        Young ones are included because a request that was in progress during the erasure may have
        written about the subject a little later.
        """
        row = FaceEventRecord
        young = and_(row.kind == _KIND, row.at >= self._clock() - max_age)
        found = set[tuple[int, str]]()
        with reading(self._engine) as session:
            for which in (_unfinished(), young):  # each has an index; both in one query have none
                rows = session.execute(select(row.id, row.subject_id).where(which))
                found.update((number, one) for number, one in rows if one is not None)
        return list(dict.fromkeys(subject_id for _, subject_id in sorted(found)))

    def with_traces(self, ids: Collection[str]) -> set[str]:
        """Those of `ids` about whom there is something that `delete_traces` would delete."""
        row, found = FaceEventRecord, set[str | None]()
        person, about = JsonText(JobRecord.request, "subject_id"), JsonText(AnswerRecord.body, "id")
        with reading(self._engine) as session:
            for batch in batches(ids):
                for query in (
                    select(row.subject_id).where(row.subject_id.in_(batch), _has_digests()),
                    select(person).where(enrollments_of(batch)),
                    select(about).where(_answers_about(batch)),
                ):
                    found.update(session.scalars(query))
        return {subject_id for subject_id in found if subject_id is not None}

    def existing_among(self, ids: Collection[str]) -> list[str]:
        """Those of `ids` that are subjects now."""
        existing: list[str] = []
        wanted = frozenset(ids)
        with reading(self._engine) as session:
            if len(wanted) > (session.scalar(select(func.count(SubjectRecord.id))) or 0):
                all_ids = select(SubjectRecord.id).execution_options(yield_per=_ROWS)
                return [one for one in session.scalars(all_ids) if one in wanted]
            for batch in batches(wanted):
                query = select(SubjectRecord.id).where(SubjectRecord.id.in_(batch))
                existing += session.scalars(query)
        return existing

    def erased_among(self, ids: Collection[str]) -> set[str]:
        """Those of `ids` that the audit log says were erased; others may be another database's.

        An entry of the log is deleted by age (OPSIN_AUDIT_DAYS), long after its erasure ended.
        """
        row, erased = FaceEventRecord, set[str]()
        with reading(self._engine) as session:
            for batch in batches(ids):
                existing = select(SubjectRecord.id).where(SubjectRecord.id.in_(batch))
                logged = select(row.subject_id).where(row.kind == _KIND, row.subject_id.in_(batch))
                in_log = {found for found in session.scalars(logged) if found is not None}
                erased |= in_log - set(session.scalars(existing))
        return erased

    def unfinished_among(self, ids: Collection[str]) -> set[str]:
        """Those of `ids` whose erasure has begun and not ended."""
        return self._among(ids, _unfinished())

    def not_rewritten_among(self, ids: Collection[str]) -> set[str]:
        """Those of `ids` whose erasure is unfinished, and waits for a rewrite of the tables."""
        return self._among(ids, and_(_unfinished(), FaceEventRecord.reason.is_(None)))

    def _among(self, ids: Collection[str], which: ColumnElement[bool]) -> set[str]:
        row, found = FaceEventRecord, set[str | None]()
        with reading(self._engine) as session:
            for batch in batches(ids):
                query = select(row.subject_id).where(row.subject_id.in_(batch), which)
                found.update(session.scalars(query))
        return {subject_id for subject_id in found if subject_id is not None}

    def finish(self, subject_ids: Collection[str]) -> None:
        """Record that nothing is left of some subjects."""
        row = FaceEventRecord
        for batch in batches(self.unfinished_among(subject_ids)):
            with writing(self._engine) as session:
                unfinished = update(row).where(row.subject_id.in_(batch), _unfinished())
                session.execute(unfinished.values(outcome=DONE, reason=None))


def erased(session: Session) -> list[str]:
    """Ids of all subjects whose erasure has begun or ended, as far as the audit log goes back.

    Those that exist, because a restore brought them back, are included.
    """
    row = FaceEventRecord
    ids = session.scalars(select(row.subject_id).where(row.kind == _KIND).distinct())
    return [subject_id for subject_id in ids if subject_id is not None]


def begin(session: Session, subject_id: str, now: datetime) -> None:
    """Record the beginning of an erasure, in the transaction that deletes the subject."""
    session.add(FaceEventRecord(at=now, kind=_KIND, subject_id=subject_id, outcome=BEGUN))


def is_unfinished(session: Session, subject_id: str) -> bool:
    """Whether an erasure of the subject has begun and not ended."""
    row = FaceEventRecord
    query = select(row.id).where(row.subject_id == subject_id, _unfinished())
    return session.scalars(query).first() is not None


def require_unfinished(session: Session, subject_id: str) -> None:
    """Check that an erasure of the subject is unfinished.

    Raises:
        SubjectNotFound: No erasure of it has begun, or it has ended.
    """
    if not is_unfinished(session, subject_id):
        raise SubjectNotFound(
            "There is no subject with that id. `GET /v1/faces/subjects` lists all."
        )


def device_scope(subject_id: str) -> str:
    """The scope of the idempotency keys of a subject's devices."""
    return f"{_DEVICE}{subject_id}"


def delete_traces(session: Session, subject_id: str, now: datetime) -> tuple[str, ...]:
    """Delete what other tables hold about a subject, and end its jobs; returns their ids.

    The rows of the jobs stay until their files are deleted: without them, the next attempt of an
    erasure would not know which files are left.
    """
    event, job, answer = FaceEventRecord, JobRecord, AnswerRecord
    with_digests = update(event).where(event.subject_id == subject_id, _has_digests())
    session.execute(with_digests.values(digest=None, device=None))
    jobs = tuple(session.scalars(select(job.id).where(enrollments_of([subject_id]))))
    end_jobs(session, jobs, now)
    answers = delete(answer).where(_answers_about([subject_id]))
    if session.connection().execute(answers).rowcount:  # of a request during the erasure, if late
        unfinished = update(event).where(event.subject_id == subject_id, _unfinished())
        session.execute(unfinished.values(reason=None))
    for batch in batches(jobs):
        made = and_(answer.scope == "enrollment", JsonText(answer.body, "id").in_(batch))
        session.execute(delete(answer).where(made))
    return jobs


def _unfinished() -> ColumnElement[bool]:
    # The outcome as the index has it, not as a parameter.
    begun = FaceEventRecord.outcome == literal_column(f"'{BEGUN}'")
    return and_(FaceEventRecord.kind == _KIND, begun)


def _has_digests() -> ColumnElement[bool]:
    return or_(FaceEventRecord.digest.is_not(None), FaceEventRecord.device.is_not(None))


def _answers_about(subject_ids: Collection[str]) -> ColumnElement[bool]:
    """The responses to requests that added these subjects or their devices."""
    scope = AnswerRecord.scope
    about = JsonText(AnswerRecord.body, "id").in_(subject_ids)
    return and_(about, or_(scope == SCOPE, scope.startswith(_DEVICE)))
