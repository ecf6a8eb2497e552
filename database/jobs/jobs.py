"""The clients' side of the table of jobs: create, list, cancel, delete.

The workers' side is `database.jobs.leases`.
"""

import secrets
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Engine, and_, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, defer

from contracts.errors import (
    Conflict,
    DiskUnusable,
    IdempotencyConflict,
    JobNotFound,
    Unavailable,
)
from contracts.jobs import FINISHED, WORK_QUEUES, Job, JobKind, JobState, Progress
from contracts.keys import Scope
from contracts.metrics.registry import Metrics
from contracts.tracing.origin import NO_ORIGIN, Origin
from database.engine import advisory_lock, batches, reading, writing
from database.idempotency import IdempotencyKey, StoredResponse, delete_expired, lookup, remember
from database.installation import belongs_to
from database.jobs.admission import UNFINISHED, require_room
from database.jobs.files import JobFiles
from database.jobs.queries import (
    JobCounts,
    JobEntry,
    StoredJob,
    about_person,
    artifacts_of,
    counts,
    delete_jobs,
    depths,
    end_jobs,
    entries,
    jobs_of,
    jobs_within,
    state_of,
    stored_jobs,
    subjects_named,
    versions_of_people,
)
from database.paging import (
    MAX_PAGE_BYTES,
    Reserve,
    decode_time_and_id,
    encode_cursor,
    length_of,
    read_anyway,
    require_limit,
    sizes_of,
)
from database.space import give_back, pause, relieve_log, steps
from database.tables import JobRecord

Clock = Callable[[], datetime]  # an aware time

_LOCK = 0x0951_0002  # see `database.engine.advisory_lock`
_PURGE_SECONDS = 2.0
_PURGED_TOGETHER = 100  # jobs whose sizes are read at a time, while the log cannot be emptied
_ENTRY_BYTES = 512  # of a metric or an artifact


@dataclass(frozen=True, slots=True)
class CreatedJob:
    """A job, and whether this call or an earlier one with the same Idempotency-Key created it."""

    job: Job
    is_new: bool


@dataclass(frozen=True, slots=True)
class JobHistory:
    """The state and progress of a job, and its entries after a sequence number, oldest first.

    Attributes:
        job: Without `about`, metrics, artifacts, result and its place in the queue.
    """

    job: Job
    entries: list[JobEntry]


@dataclass(frozen=True, slots=True)
class JobPage:
    """A page of jobs as they are stored.

    Attributes:
        next_cursor: None on the last page.
    """

    items: list[StoredJob]
    next_cursor: str | None


def new_job_id() -> str:
    """A random id of 144 bits, which cannot be guessed."""
    return f"job_{secrets.token_urlsafe(18)}"


class Jobs:
    """The table of jobs. Methods raise Unavailable if the database fails; most are one transaction.

    Args:
        files: The files of the jobs, which are removed with their rows; None if there are none.
        metrics: Count the jobs that end.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        files: JobFiles | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics or Metrics()
        self._engine = engine
        self._clock = clock
        self._files = files
        self._left: set[str] = set()  # old jobs whose files could not be removed

    def create(
        self,
        kind: JobKind,
        request: dict[str, Any],
        *,
        limit: int,
        input_digest: str | None = None,
        idempotency: IdempotencyKey | None = None,
        job_id: str | None = None,
        client: str | None = None,
        scopes: Collection[Scope] | None = None,
        origin: Origin = NO_ORIGIN,
        check: Callable[[], None] | None = None,
    ) -> CreatedJob:
        """Queue a job. The caller sends it to a worker if it is new.

        Args:
            request: JSON, for the worker only.
            limit: Maximum number of unfinished jobs, including this one.
            input_digest: SHA-256 of the input, in hex.
            job_id: From `new_job_id`, if the input has been stored under it.
            client: Who sends it, see `service.auth.principal.quota_key`; None if unknown.
            scopes: All that a key needs to read it; None if unknown.
            origin: The request.
            check: Refuses the job by raising, unless an earlier one is returned. What `erase_about`
                is called for has been deleted before: either this sees that, or `erase_about` sees
                the job. It does not use the database.

        Raises:
            QueueFull: There is no room for it, see `database.jobs.admission`.
            IdempotencyConflict: The key was used for another request, or its job is deleted.
            Unavailable: There is no such job, unless `is_outcome_unknown`.
        """
        job_id = job_id or new_job_id()
        make = partial(
            self._record,
            kind,
            request,
            input_digest,
            job_id,
            client,
            scopes=scopes,
            origin=origin,
        )
        try:
            try:
                return self._insert(make(), limit, idempotency, check)
            except IntegrityError:
                # Another process has used the same key between our read and our write.
                return self._insert(make(), limit, idempotency, check)
        except Unavailable as error:
            if not error.is_outcome_unknown:
                raise
            try:
                job = self._committed(job_id)
            except Unavailable:
                raise error from None
            if job is None:
                error.is_outcome_unknown = False
                raise
            return CreatedJob(job, is_new=True)

    def _committed(self, job_id: str) -> Job | None:
        """The job of a transaction whose commit was not answered; None if it came to nothing.

        Raises:
            Unavailable: The database does not answer, or that transaction has not ended yet.
        """
        with writing(self._engine) as session:
            advisory_lock(session.connection(), _LOCK)  # which that transaction holds to its end
            record = session.get(JobRecord, job_id)
            return None if record is None else jobs_of(session, [record])[0]

    def require_room(
        self,
        kind: JobKind,
        *,
        limit: int,
        idempotency: IdempotencyKey | None = None,
        client: str | None = None,
    ) -> None:
        """Refuse a job that `create` would refuse now, with a query that waits for no writer.

        Raises:
            QueueFull: There is no room for it, see `database.jobs.admission`.
            IdempotencyConflict: The key was used for another request, or its job is deleted.
        """
        now = self._clock()
        record = JobRecord(queue=WORK_QUEUES.get(kind), client=client, created_at=now)
        with reading(self._engine) as session:
            if idempotency is None or _earlier(session, idempotency, now) is None:
                require_room(session, record, limit)

    def earlier(self, idempotency: IdempotencyKey) -> Job | None:
        """The job that the first request with that key created within the last day.

        Raises:
            IdempotencyConflict: The key was used for another request, or its job is deleted.
        """
        with reading(self._engine) as session:
            return _earlier(session, idempotency, self._clock())

    def get(self, job_id: str) -> Job:
        """One job.

        Raises:
            JobNotFound: There is no such job.
        """
        return self.stored(job_id).whole()

    def stored(self, job_id: str, reserve: Reserve = read_anyway) -> StoredJob:
        """One job as it is stored.

        Raises:
            JobNotFound: There is no such job.
        """
        ids = [job_id] if _is_usable(job_id) else []
        with reading(self._engine) as session:
            reserve(sum(jobs_within(session, ids, MAX_PAGE_BYTES).values()))
            found = stored_jobs(session, ids)
        if not found:
            raise _not_found()
        return found[0]

    def outline(self, job_id: str) -> Job:
        """One job without what may have megabytes: `about`, metrics and result.

        Raises:
            JobNotFound: There is no such job.
        """
        with reading(self._engine) as session:
            job = state_of(find(session, job_id, is_whole=False))
            return job.model_copy(update={"artifacts": artifacts_of(session, job_id)})

    def request_of(self, job_id: str) -> dict[str, Any]:
        """What the worker is asked to do.

        Raises:
            JobNotFound: There is no such job.
        """
        query = select(JobRecord.request).where(JobRecord.id == job_id)
        with reading(self._engine) as session:
            request: dict[str, Any] | None = session.scalar(query)
        if request is None:
            raise _not_found()
        return request

    def history(self, job_id: str, after: int = 0) -> JobHistory:
        """The state and progress of one job, and its entries after a sequence number.

        Each stream of events reads it twice a second; a sweep's request alone has a megabyte.

        Raises:
            JobNotFound: There is no such job.
        """
        with reading(self._engine) as session:
            record = find(session, job_id, is_whole=False)
            # Most reads find nothing new.
            new = entries(session, job_id, after) if record.sequence > after else []
            return JobHistory(state_of(record), new)

    def destination(self, job_id: str) -> tuple[str | None, str]:
        """The queue of a job that runs in its own process (otherwise None), and its model.

        Raises:
            JobNotFound: There is no such job.
        """
        with reading(self._engine) as session:
            record = find(session, job_id)
            return record.queue, str(record.request.get("model", ""))

    def depths(self) -> dict[str, tuple[int, int]]:
        """(queued, running) jobs by queue."""
        with reading(self._engine) as session:
            return depths(session)

    def counts(self) -> JobCounts:
        """How many jobs there are of each kind and state, and how long they have waited."""
        now = self._clock()
        with reading(self._engine) as session:
            return counts(session, now)

    def needs_dataset(self, dataset_id: str) -> bool:
        """Whether an unfinished job, such as a training, uses that dataset."""
        # In the database: the requests of all unfinished jobs can have a hundred megabytes.
        named = JobRecord.request["dataset_id"].as_string() == dataset_id
        query = select(JobRecord.id).where(JobRecord.state.in_(UNFINISHED), named)
        with reading(self._engine) as session:
            return session.scalars(query.limit(1)).first() is not None

    def using_subject(self, subject_id: str) -> tuple[str, ...]:
        """The unfinished jobs that have that subject among their `subjects`."""
        return tuple(job_id for job_id, ids in self._in_training() if subject_id in ids)

    def subjects_in_training(self) -> set[str]:
        """The `subjects` of all unfinished jobs."""
        return {subject_id for _, ids in self._in_training() for subject_id in ids}

    def _in_training(self) -> list[tuple[str, Collection[str]]]:
        query = select(JobRecord.id, JobRecord.request).where(
            JobRecord.state.in_(UNFINISHED), JobRecord.request["subjects"].as_string().is_not(None)
        )
        with reading(self._engine) as session:
            return [
                (job_id, request.get("subjects") or ())
                for job_id, request in session.execute(query)
            ]

    def subjects(self) -> set[str]:
        """The subjects whose ids requests and results contain."""
        with reading(self._engine) as session:
            return subjects_named(session)

    def versions_of_people(self) -> set[tuple[str, int]]:
        """Model and number of the versions of people that jobs used or made, also deleted ones.

        Empty if the files beside the jobs are those of another database, or are away.
        """
        if not self._files or not belongs_to(self._engine, self._files.root.parent):
            return set()
        with reading(self._engine) as session:
            return versions_of_people(session)

    def abandon(self, subject_id: str) -> None:
        """End the unfinished jobs on a subject at once: no worker has them, as after a restore."""
        ids, now = self.using_subject(subject_id), self._clock()
        with writing(self._engine) as session:
            end_jobs(session, ids, now)

    def page(
        self,
        *,
        kind: JobKind | None = None,
        state: JobState | None = None,
        limit: int = 50,
        cursor: str | None = None,
        without: Collection[Scope] = (),
        reserve: Reserve = read_anyway,
    ) -> JobPage:
        """A page of jobs, newest first. Jobs created in the meantime do not shift the pages.

        It ends early, but not before its first job, where requests, results and metrics would have
        more than `MAX_PAGE_BYTES` together.

        Args:
            kind: Only jobs of this kind.
            state: Only jobs in this state.
            limit: The most jobs.
            cursor: Where the page begins, from the page before.
            without: Leave out jobs that need one of these scopes; jobs of earlier releases, whose
                scopes are not stored, stay.

        Raises:
            ValidationFailed: The cursor is not valid, or the limit is not between 1 and 200.
        """
        require_limit(limit)
        query = select(JobRecord).order_by(JobRecord.created_at.desc(), JobRecord.id.desc())
        if kind is not None:
            query = query.where(JobRecord.kind == kind)
        if state is not None:
            query = query.where(JobRecord.state == state)
        for scope in without:
            query = query.where(or_(JobRecord.scopes.is_(None), ~JobRecord.scopes.contains(scope)))
        if cursor is not None:
            created_at, job_id = decode_time_and_id(cursor)
            same_time = and_(JobRecord.created_at == created_at, JobRecord.id < job_id)
            query = query.where(or_(JobRecord.created_at < created_at, same_time))
        with reading(self._engine) as session:
            ids = session.scalars(query.with_only_columns(JobRecord.id).limit(limit + 1)).all()
            shown = jobs_within(session, ids[:limit], MAX_PAGE_BYTES)
            reserve(sum(shown.values()))
            items = stored_jobs(session, shown)
        next_cursor = None
        if len(ids) > len(shown) and items:
            last = items[-1].job
            next_cursor = encode_cursor(last.created_at.isoformat(), last.id)
        return JobPage(items, next_cursor)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job.

        A queued job ends at once. A running one is flagged, and ends when its worker sees the flag.
        A finished job does not change.

        Returns:
            The job, as `outline`, without artifacts.

        Raises:
            JobNotFound: There is no such job.
        """
        now = self._clock()
        with writing(self._engine) as session:
            record = find(session, job_id, locked=True, is_whole=False)
            ended = record.state == "queued"
            if ended:
                record.state = "cancelled"
                record.finished_at = now
            elif record.state == "running":
                record.cancel_requested = True
            job = state_of(record)
        if ended:
            self._metrics.inc("jobs_ended_total", job.kind, "cancelled", "")
        if self._files and job.state in FINISHED:
            self._files.end_work(job_id)
        return job

    def delete(self, job_id: str) -> None:
        """Delete a finished job and its files.

        Raises:
            JobNotFound: There is no such job.
            Conflict: It is not finished.
        """
        with writing(self._engine) as session:
            record = find(session, job_id, locked=True, is_whole=False)
            if record.state not in FINISHED:
                raise Conflict("The job is not finished. Cancel it first, then delete it.")
            session.delete(record)
        if self._files:
            self._files.remove(job_id)

    def erase_about(self, subject_id: str, versions: Collection[tuple[str, int]]) -> int:
        """Delete the jobs that are about an erased person, with their files; returns how many.

        Enrollments are deleted with the subject. A training that has not ended stays, so that its
        worker still finds out that it was cancelled; the erasure is repeated for a while. A job
        whose files stay on the disk is kept without its result, and found by the id again.

        Args:
            subject_id: Whose id a request or a result may contain.
            versions: Model and number of the versions that were trained on the person.

        Raises:
            DiskUnusable: Files of some of the jobs cannot be deleted from the disk.
        """
        # All jobs are looked through, so not in a transaction that others wait for. Those that were
        # being created, see `create`, have been when this one ends.
        with writing(self._engine) as session:
            advisory_lock(session.connection(), _LOCK)
        with reading(self._engine) as session:
            ids = about_person(session, subject_id, versions)
        if not ids:
            return 0
        with writing(self._engine) as session:
            end_jobs(session, ids, self._clock())
        files = self._files
        left = {job_id for job_id in ids if files is not None and not files.remove(job_id)}
        for step in self._steps([job_id for job_id in ids if job_id not in left]):
            with writing(self._engine) as session:
                delete_jobs(session, step)
            pause(self._engine)
        if left:
            with writing(self._engine) as session:
                for job_id in left:
                    if (record := session.get(JobRecord, job_id)) is not None:
                        record.request = record.request | {"subject_id": subject_id}
                        record.result = None
            raise DiskUnusable("Files of jobs cannot be deleted from the disk.", retry_after=30)
        return len(ids)

    def purge(self, older_than: timedelta) -> int:
        """Delete jobs that finished before `older_than`, their files, and old stored responses.

        Jobs may have gigabytes: they are deleted in several transactions, and no more of them than
        take some seconds. Those whose files could not be removed come last the next time.

        Returns:
            The number of deleted jobs and responses; repeat the call until it is 0.
        """
        now, until = self._clock(), time.monotonic() + _PURGE_SECONDS
        old = and_(JobRecord.state.in_(FINISHED), JobRecord.finished_at < now - older_than)
        oldest = select(JobRecord.id).where(old).order_by(JobRecord.finished_at)
        try:
            deleted = delete_expired(self._engine, now, until)
            with reading(self._engine) as session:
                job_ids = list(session.scalars(oldest))
            self._left.intersection_update(job_ids)
            for step in self._steps(sorted(job_ids, key=self._left.__contains__)):
                # Files first, since an erasure finds by the rows which files are left.
                gone = [job_id for job_id in step if not self._files or self._files.remove(job_id)]
                self._left.update(set(step).difference(gone))
                with writing(self._engine) as session:
                    delete_jobs(session, gone)
                deleted += len(gone)
                if time.monotonic() > until:
                    break
                pause(self._engine)
        except Unavailable:
            relieve_log(self._engine)
            raise
        return deleted

    def give_back(self) -> bool:
        """See `database.space.give_back`."""
        return give_back(self._engine)

    def _steps(self, job_ids: Collection[str]) -> Iterator[list[str]]:
        """Divide jobs, so that each deletion is a short one."""
        row = JobRecord
        size = length_of(row.request) + length_of(row.result) + _ENTRY_BYTES * row.sequence
        for batch in batches(job_ids, _PURGED_TOGETHER):
            with reading(self._engine) as session:
                sizes = list(sizes_of(session, batch, row.id, size))
            yield from steps(sizes)

    def remove_orphans(self) -> int:
        """Remove files that a killed process left behind; returns of how many jobs.

        Nothing is removed if the home belongs to another database.
        """
        if not self._files or not belongs_to(self._engine, self._files.root.parent):
            return 0
        return self._files.sweep(self._finished_by_id)

    def _finished_by_id(self, ids: Collection[str]) -> dict[str, bool]:
        """The existing ones of those jobs, and whether each has finished."""
        query, finished = select(JobRecord.id, JobRecord.state), dict[str, bool]()
        with reading(self._engine) as session:
            for batch in batches(ids):
                known = session.execute(query.where(JobRecord.id.in_(batch)))
                finished |= {job_id: state in FINISHED for job_id, state in known}
        return finished

    def _record(
        self,
        kind: JobKind,
        request: dict[str, Any],
        digest: str | None,
        job_id: str,
        client: str | None,
        *,
        scopes: Collection[Scope] | None,
        origin: Origin,
    ) -> JobRecord:
        now = self._clock()
        return JobRecord(
            id=job_id,
            kind=kind,
            state="queued",
            queue=WORK_QUEUES.get(kind),
            request=request,
            client=client,
            scopes=None if scopes is None else ",".join(scopes),
            origin=origin.as_json() or None,
            input_digest=digest,
            attempt=0,
            stalled=0,
            furthest=0,
            sequence=0,
            progress=Progress(fraction=0).model_dump(),
            cancel_requested=False,
            sent_at=now,
            created_at=now,
        )

    def _insert(
        self,
        record: JobRecord,
        limit: int,
        idempotency: IdempotencyKey | None,
        check: Callable[[], None] | None,
    ) -> CreatedJob:
        with writing(self._engine) as session:
            advisory_lock(session.connection(), _LOCK)  # otherwise two could take the last place
            now = record.created_at
            if idempotency and (first := _earlier(session, idempotency, now)):
                return CreatedJob(first, is_new=False)
            require_room(session, record, limit)
            if check is not None:
                check()
            session.add(record)
            session.flush()
            job = jobs_of(session, [record])[0]
            if idempotency:
                remember(
                    session, idempotency, StoredResponse(202, job.model_dump(mode="json")), now
                )
            return CreatedJob(job, is_new=True)


def _earlier(session: Session, idempotency: IdempotencyKey, now: datetime) -> Job | None:
    """See `Jobs.earlier`. A deleted one is not made again: it may have published a version."""
    if (first := lookup(session, idempotency, now)) is None:
        return None
    job = Job.model_validate(first.body)
    if session.scalar(select(JobRecord.id).where(JobRecord.id == job.id)) is None:
        raise IdempotencyConflict(
            f"The job of this Idempotency-Key, {job.id}, has been deleted. "
            "Use a new key for another one."
        )
    return job


def find(
    session: Session, job_id: str, *, locked: bool = False, is_whole: bool = True
) -> JobRecord:
    """The row with that id.

    Args:
        locked: Whether to lock the row against others until the transaction ends.
        is_whole: Whether to read its request and result, which may have megabytes.

    Raises:
        JobNotFound: There is no such job.
    """
    large = (JobRecord.request, JobRecord.result)
    options = () if is_whole else tuple(defer(column, raiseload=True) for column in large)
    record = None
    if _is_usable(job_id):
        lock = locked or None
        record = session.get(JobRecord, job_id, with_for_update=lock, options=options)
    if record is None:
        raise _not_found()
    return record


def _is_usable(job_id: str) -> bool:
    """PostgreSQL accepts no NUL in a text, and our ids contain no such characters."""
    return job_id.isascii() and job_id.isprintable()


def _not_found() -> JobNotFound:
    return JobNotFound("There is no job with that id. Finished jobs are deleted after some time.")
