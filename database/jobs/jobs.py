"""Jobs as clients see them: created, listed, cancelled, deleted.

The workers' side is `database.jobs.leases`.
"""

import base64
import binascii
import json
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, and_, delete, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from contracts.errors import Conflict, JobNotFound, QueueFull, ValidationFailed
from contracts.jobs import FINISHED, WORK_QUEUES, Job, JobKind, JobState, Progress
from database.engine import alone, reading, writing
from database.idempotency import Answer, IdempotencyKey, forget_old, lookup, remember
from database.jobs.files import JobFiles
from database.jobs.queries import Entry, depths, entries, jobs_of
from database.tables import JobRecord

Clock = Callable[[], datetime]  # an aware time

MOST_LISTED = 200
_LOCK = 0x0951_0002  # see `database.engine.alone`
_RATE_WINDOW = timedelta(minutes=1)
_UNFINISHED = ("queued", "running")  # named, so that the index on the state serves


@dataclass(frozen=True, slots=True)
class Created:
    """A job, and whether this call made it or an earlier one with the same Idempotency-Key."""

    job: Job
    is_new: bool


@dataclass(frozen=True, slots=True)
class History:
    """A job as it is now, and what it told after a certain number, oldest first."""

    job: Job
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs, newest first, and where the next page starts; None after the last."""

    items: list[Job]
    next_cursor: str | None


def new_job_id() -> str:
    """An id nobody can guess: 144 random bits."""
    return f"job_{secrets.token_urlsafe(18)}"


class Jobs:
    """The table of jobs. Every method is one transaction, and raises Unavailable without one.

    Args:
        engine: The database.
        clock: What time it is.
        files: The files beside the rows, which go when the rows go; None where there are none.
    """

    def __init__(self, engine: Engine, clock: Clock, files: JobFiles | None = None) -> None:
        self._engine = engine
        self._clock = clock
        self._files = files

    def create(
        self,
        kind: JobKind,
        request: dict[str, Any],
        *,
        limit: int,
        input_digest: str | None = None,
        idempotency: IdempotencyKey | None = None,
        job_id: str | None = None,
    ) -> Created:
        """Queue a job. Only a new one is to be sent to a worker.

        Args:
            kind: What is to be done.
            request: How, for the worker alone; JSON.
            limit: Unfinished jobs accepted, this one counted.
            input_digest: sha256 of the input, hex.
            idempotency: From the client's header, if it sent one.
            job_id: From `new_job_id`, where the input is stored under it beforehand.

        Raises:
            QueueFull: There are `limit` unfinished jobs; says when to retry.
            IdempotencyConflict: The key was used for another request.
        """
        record = self._record(kind, request, input_digest, job_id or new_job_id())
        try:
            return self._insert(record, limit, idempotency)
        except IntegrityError:
            # Another process answered the same key between our look and our write.
            record = self._record(kind, request, input_digest, job_id or new_job_id())
            return self._insert(record, limit, idempotency)

    def earlier(self, asked: IdempotencyKey) -> Job | None:
        """What the first request with that key was answered, within the last day.

        Raises:
            IdempotencyConflict: The key was used for another request.
        """
        with reading(self._engine) as session:
            first = lookup(session, asked, self._clock())
        return Job.model_validate(first.body) if first else None

    def get(self, job_id: str) -> Job:
        """One job.

        Raises:
            JobNotFound: There is none of that id.
        """
        with reading(self._engine) as session:
            return jobs_of(session, [find(session, job_id)])[0]

    def history(self, job_id: str, after: int = 0) -> History:
        """One job, and what it told after the number of an earlier entry.

        Raises:
            JobNotFound: There is none of that id.
        """
        with reading(self._engine) as session:
            record = find(session, job_id)
            return History(jobs_of(session, [record])[0], entries(session, job_id, after))

    def destination(self, job_id: str) -> tuple[str | None, str]:
        """The queue of a job that runs in a process of its own, and the model of another.

        Raises:
            JobNotFound: There is none of that id.
        """
        with reading(self._engine) as session:
            record = find(session, job_id)
            return record.queue, str(record.request.get("model", ""))

    def depths(self) -> dict[str, tuple[int, int]]:
        """How many jobs wait and how many run, by queue."""
        with reading(self._engine) as session:
            return depths(session)

    def needs_dataset(self, dataset_id: str) -> bool:
        """Whether an unfinished job, such as a training, was asked for with that dataset."""
        query = select(JobRecord.request).where(JobRecord.state.in_(_UNFINISHED))
        with reading(self._engine) as session:
            return any(
                request.get("dataset_id") == dataset_id for request in session.scalars(query)
            )

    def learning_from(self, subject_id: str) -> tuple[str, ...]:
        """The unfinished jobs that were asked for with that subject among their `subjects`."""
        query = select(JobRecord.id, JobRecord.request).where(JobRecord.state.in_(_UNFINISHED))
        with reading(self._engine) as session:
            return tuple(
                job_id
                for job_id, request in session.execute(query)
                if subject_id in (request.get("subjects") or ())
            )

    def list(
        self,
        *,
        kind: JobKind | None = None,
        state: JobState | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Some jobs, newest first. Jobs made meanwhile do not shift the pages.

        Raises:
            ValidationFailed: The cursor is none of ours, or the limit not in 1 to 200.
        """
        if not 1 <= limit <= MOST_LISTED:
            raise ValidationFailed(f"limit must lie between 1 and {MOST_LISTED}.")
        query = select(JobRecord).order_by(JobRecord.created_at.desc(), JobRecord.id.desc())
        if kind is not None:
            query = query.where(JobRecord.kind == kind)
        if state is not None:
            query = query.where(JobRecord.state == state)
        if cursor is not None:
            created_at, job_id = _place(cursor)
            same_time = and_(JobRecord.created_at == created_at, JobRecord.id < job_id)
            query = query.where(or_(JobRecord.created_at < created_at, same_time))
        with reading(self._engine) as session:
            records = session.scalars(query.limit(limit + 1)).all()
            shown = records[:limit]
            jobs = jobs_of(session, shown)
        return Page(jobs, _cursor(shown[-1]) if len(records) > limit else None)

    def cancel(self, job_id: str) -> Job:
        """Ask for a job to end.

        A queued one ends at once. A running one is flagged and ends when its worker looks. A
        finished one stays what it is.

        Raises:
            JobNotFound: There is none of that id.
        """
        with writing(self._engine) as session:
            record = find(session, job_id, locked=True)
            if record.state == "queued":
                record.state = "cancelled"
                record.finished_at = self._clock()
            elif record.state == "running":
                record.cancel_requested = True
            job = jobs_of(session, [record])[0]
        if self._files and job.state in FINISHED:
            self._files.end_work(job_id)
        return job

    def delete(self, job_id: str) -> None:
        """Forget a finished job and its files.

        Raises:
            JobNotFound: There is none of that id.
            Conflict: It is not finished.
        """
        with writing(self._engine) as session:
            record = find(session, job_id, locked=True)
            if record.state not in FINISHED:
                raise Conflict("The job is not finished. Cancel it first, then delete it.")
            session.delete(record)
        if self._files:
            self._files.remove(job_id)

    def purge(self, older_than: timedelta) -> int:
        """Forget jobs that finished longer ago, their files, and old answers.

        Files that a killed process left behind go too.

        Returns:
            How many jobs were forgotten.
        """
        now = self._clock()
        old = and_(JobRecord.state.in_(FINISHED), JobRecord.finished_at < now - older_than)
        with writing(self._engine) as session:
            forget_old(session, now)
            gone = list(session.scalars(select(JobRecord.id).where(old)))
            session.connection().execute(delete(JobRecord).where(old))
        if self._files:
            for job_id in gone:
                self._files.remove(job_id)
            self._files.sweep(self._fates)
        return len(gone)

    def _fates(self, ids: Collection[str]) -> dict[str, bool]:
        """Which of those jobs there are, and whether each has ended."""
        known = select(JobRecord.id, JobRecord.state).where(JobRecord.id.in_(ids))
        with reading(self._engine) as session:
            return {job_id: state in FINISHED for job_id, state in session.execute(known)}

    def _record(
        self, kind: JobKind, request: dict[str, Any], digest: str | None, job_id: str
    ) -> JobRecord:
        now = self._clock()
        return JobRecord(
            id=job_id,
            kind=kind,
            state="queued",
            queue=WORK_QUEUES.get(kind),
            request=request,
            input_digest=digest,
            attempt=0,
            stalled=0,
            furthest=0,
            told=0,
            progress=Progress(fraction=0).model_dump(),
            cancel_requested=False,
            sent_at=now,
            created_at=now,
        )

    def _insert(self, record: JobRecord, limit: int, asked: IdempotencyKey | None) -> Created:
        with writing(self._engine) as session:
            alone(session.connection(), _LOCK)  # or two could both take the last place
            now = record.created_at
            if asked and (first := lookup(session, asked, now)):
                return Created(Job.model_validate(first.body), is_new=False)
            self._check_room(session, limit, now)
            session.add(record)
            session.flush()
            job = jobs_of(session, [record])[0]
            if asked:
                remember(session, asked, Answer(202, job.model_dump(mode="json")), now)
            return Created(job, is_new=True)

    def _check_room(self, session: Session, limit: int, now: datetime) -> None:
        count = select(func.count()).select_from(JobRecord)
        unfinished = session.scalar(count.where(JobRecord.state.in_(_UNFINISHED))) or 0
        if unfinished < limit:
            return
        recently = JobRecord.finished_at > now - _RATE_WINDOW
        ended = session.scalar(count.where(JobRecord.state.in_(FINISHED), recently)) or 0
        raise QueueFull(
            f"There are {unfinished} unfinished jobs, as many as are accepted. Retry later.",
            retry_after=_RATE_WINDOW.total_seconds() / max(ended, 1),
        )


def find(session: Session, job_id: str, *, locked: bool = False) -> JobRecord:
    """The row of that id; locked against others until the transaction ends, if asked.

    Raises:
        JobNotFound: There is none.
    """
    # PostgreSQL takes no NUL in a text, and no id of ours has anything like it.
    usable = job_id.isascii() and job_id.isprintable()
    record = session.get(JobRecord, job_id, with_for_update=locked or None) if usable else None
    if record is None:
        raise JobNotFound("There is no job of that id. Finished jobs are forgotten after a while.")
    return record


def _cursor(record: JobRecord) -> str:
    place = json.dumps([record.created_at.isoformat(), record.id])
    return base64.urlsafe_b64encode(place.encode()).decode()


def _place(cursor: str) -> tuple[datetime, str]:
    try:
        created_at, job_id = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
        moment = datetime.fromisoformat(created_at)
        if moment.tzinfo is None or not job_id.isascii():
            raise _bad_cursor()
        return moment.astimezone(UTC), job_id
    except (binascii.Error, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise _bad_cursor() from None


def _bad_cursor() -> ValidationFailed:
    return ValidationFailed("The cursor is none of ours. Use next_cursor of the page before.")
