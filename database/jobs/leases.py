"""The workers' side of the table of jobs: leases, heartbeats, progress and results.

A worker that dies says nothing, so it holds a job only until its lease expires; then another worker
may take it. The lease contains the attempt number, so a worker that was merely slow can no longer
change the job after another one has taken it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Engine, and_, case, func, literal, or_, select, update
from sqlalchemy.orm import Session

from contracts.errors import InternalError, ModelNotReady, OpsinError, Unavailable
from contracts.jobs import FINISHED, STARTING, Progress
from contracts.metrics.registry import Metrics
from contracts.tracing.origin import NO_ORIGIN, Origin
from database.engine import batches, reading, writing
from database.jobs.jobs import Clock
from database.jobs.turns import turns
from database.json_text import JsonText
from database.tables import ArtifactRecord, JobRecord, MetricRecord, UtcTime

MAX_ATTEMPTS = 3
"""Consecutive attempts without progress of a job that runs on inference workers."""

MAX_STALLED_ATTEMPTS = 10
"""The same for a job in its own process, which resumes from a checkpoint."""

MAX_OUT_OF_MEMORY = 3
"""The same if the process ran out of memory: more attempts would not find more of it."""

MAX_CRASHES = 3
"""The same if the process crashed: it would probably crash again."""

MAX_ENTRIES = 100_000
"""Metrics and artifacts that one job may write, including replaced ones."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on one job.

    Attributes:
        worker_id: The worker that holds the lease.
        attempt: Attempt number, starting at 1.
        request: As given to `Jobs.create`.
        origin: The request that made the job.
        created_at: When that was.
        scopes: Those that the job was stored with; None for jobs of an earlier release.
    """

    job_id: str
    worker_id: str
    attempt: int
    kind: str
    request: dict[str, Any]
    origin: Origin = NO_ORIGIN
    created_at: datetime | None = None
    scopes: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class UnclaimedJob:
    """What a worker looks at before it takes a job; the attributes are those of `Lease`."""

    request: dict[str, Any]
    scopes: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class SweepResult:
    """Ids of jobs whose task has to be sent again, and of jobs that the sweep has ended."""

    resend: list[str]
    failed: list[str]
    cancelled: list[str]


LeaseStatus = Literal["held", "cancelled", "lost"]

_AT_A_TIME = 100  # requests of jobs, each of which may name hundreds of images

# (runs on inference workers, maximum of stalled attempts, error)
_GIVE_UP_RULES = (
    (
        True,
        MAX_ATTEMPTS,
        InternalError(f"The worker was lost {MAX_ATTEMPTS} times. Send the request again."),
    ),
    (
        False,
        MAX_STALLED_ATTEMPTS,
        InternalError(
            f"Its process was lost {MAX_STALLED_ATTEMPTS} times in a row without progress. "
            "The job worker's log says why; send the request again once that is fixed."
        ),
    ),
)
_OUT_OF_MEMORY = InternalError(
    f"Out of memory: the system killed its process {MAX_OUT_OF_MEMORY} times in a row without "
    "progress. Use a smaller batch, image or network, or give the worker more memory."
)
_CRASHED = InternalError(
    f"Its process crashed {MAX_CRASHES} times in a row without progress. The job worker's "
    "log says why; change the request, or send it again once that is fixed."
)
_NEVER_LOADED = ModelNotReady(
    "No worker has begun a job of its version for as long as jobs may wait. Send it again once "
    "GET /v1/models says that the model is ready."
)


class Leases:
    """The workers' side of the table of jobs. Every method is one transaction.

    Args:
        clock: The same for all hosts; see `database.clock`.
        metrics: Count the jobs that end.
    """

    def __init__(self, engine: Engine, clock: Clock, metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self._engine = engine
        self._clock = clock

    def look_at(self, job_id: str) -> UnclaimedJob | None:
        """A job that may be claimed; None if it was deleted or is finished."""
        with reading(self._engine) as session:
            record = session.get(JobRecord, job_id)
            if record is None or record.state in FINISHED:
                return None
            return UnclaimedJob(record.request, _scopes(record))

    def claim(self, job_id: str, worker_id: str, lease_seconds: float) -> Lease | None:
        """Take a job that is queued, or whose lease has expired.

        Returns:
            The lease; None if the job was deleted, finished, cancelled or given up, or if another
            worker holds it.
        """
        now = self._clock()  # before the transaction: it may need a connection of its own
        with writing(self._engine) as session:
            return self._claim(session, job_id, worker_id, now, lease_seconds)

    def claim_next(self, queue: str, worker_id: str, lease_seconds: float) -> Lease | None:
        """Take the free job of a queue whose turn it is; None if there is none."""
        now = self._clock()
        free = _free(now)
        with reading(self._engine) as session:
            if session.scalar(select(JobRecord.id).where(JobRecord.queue == queue, free).limit(1)):
                order = list(turns(session, queue, free))
            else:
                return None  # the usual case, without the lock of a writer
        with writing(self._engine) as session:
            for job_id in order:  # another worker may have taken the first ones
                lease = self._claim(session, job_id, worker_id, now, lease_seconds)
                if lease is not None:
                    return lease
            return None

    def get(self, job_id: str, worker_id: str, attempt: int) -> Lease | None:
        """The lease that the parent process has taken; None if it is no longer held."""
        with reading(self._engine) as session:
            record = session.get(JobRecord, job_id)
            expected = ("running", worker_id, attempt)
            if record is None or (record.state, record.worker_id, record.attempt) != expected:
                return None
            return _lease(record, worker_id)

    def status(self, lease: Lease) -> LeaseStatus:
        """Whether the lease is still held, and the job not cancelled."""
        with reading(self._engine) as session:
            record = session.get(JobRecord, lease.job_id)
            if record is None or (record.worker_id, record.attempt, record.state) != (
                lease.worker_id,
                lease.attempt,
                "running",
            ):
                return "lost"
            return "cancelled" if record.cancel_requested else "held"

    def heartbeat(self, lease: Lease, lease_seconds: float) -> bool:
        """Renew the lease; False if it is no longer held and the work should stop."""
        until = self._clock() + timedelta(seconds=lease_seconds)
        return self._write(lease, {"lease_until": until})

    def progress(self, lease: Lease, progress: Progress) -> bool:
        """Write the progress; False if the job is no longer held."""
        millionths = round(progress.fraction * 1_000_000)
        further = JobRecord.furthest < millionths
        values = {
            "progress": progress.model_dump(),
            "stalled": case((further, 0), else_=JobRecord.stalled),
            "furthest": case((further, millionths), else_=JobRecord.furthest),
        }
        return self._write(lease, values)

    def metrics(self, lease: Lease, key: str, row: dict[str, Any]) -> bool:
        """Add a row, or replace the one with that key; False if the job is no longer held."""

        def write(session: Session, sequence: int) -> None:
            record = session.get(MetricRecord, (lease.job_id, key))
            if record is not None:
                record.sequence, record.row = sequence, row
                return
            record = MetricRecord(
                job_id=lease.job_id, key=key, place=sequence, sequence=sequence, row=row
            )
            session.add(record)
            # A new row is progress, whatever the fraction says.
            session.execute(update(JobRecord).where(JobRecord.id == lease.job_id).values(stalled=0))

        return self._append(lease, write)

    def has_row(self, lease: Lease, key: str) -> bool:
        """Whether the job has a row of metrics with that key; also if the database is away."""
        try:
            with reading(self._engine) as session:
                return session.get(MetricRecord, (lease.job_id, key)) is not None
        except Unavailable:
            return True

    def artifact(self, lease: Lease, name: str, media_type: str, size: int) -> bool:
        """Record a new or replaced file; False if the job is no longer held."""

        def write(session: Session, sequence: int) -> None:
            known = session.get(ArtifactRecord, (lease.job_id, name))
            place = known.place if known is not None else sequence
            session.merge(
                ArtifactRecord(
                    job_id=lease.job_id,
                    name=name,
                    media_type=media_type,
                    size=size,
                    place=place,
                    sequence=sequence,
                )
            )

        return self._append(lease, write)

    def release(
        self,
        lease: Lease,
        *,
        stopped: bool = False,
        pause: float = 0,
        out_of_memory: bool = False,
        crashed: bool = False,
    ) -> bool:
        """Give the job back unfinished, so that the next attempt need not wait for the lease.

        Args:
            stopped: The attempt does not count: the worker was asked to stop, or another process
                has the job's folder.
            pause: Seconds until the next attempt.
            out_of_memory: The system killed the process because memory ran out.
            crashed: The process crashed.

        Returns:
            False if the job was no longer held.
        """
        now = self._clock()
        free: dict[str, Any] = {"lease_until": now + timedelta(seconds=pause, microseconds=-1)}
        if stopped:
            free["stalled"] = case((JobRecord.stalled > 0, JobRecord.stalled - 1), else_=0)
        with writing(self._engine) as session:
            if not _changed(session, _held_by(lease), free):
                return False
            record = session.get(JobRecord, lease.job_id)
            if out_of_memory and record is not None and record.stalled >= MAX_OUT_OF_MEMORY:
                _fail(record, _OUT_OF_MEMORY, now)
            if crashed and record is not None and record.stalled >= MAX_CRASHES:
                _fail(record, _CRASHED, now)
            ended = record is not None and record.state == "failed"
        if ended:
            self._ended(lease.kind, "failed", InternalError.code)
        return True

    def has_ended(self, job_id: str) -> bool:
        """Whether the job is finished or deleted."""
        with reading(self._engine) as session:
            record = session.get(JobRecord, job_id)
            return record is None or record.state in FINISHED

    def release_all(self, worker_id: str) -> int:
        """Give back the jobs of a worker that is known to be dead; return their number."""
        held = and_(JobRecord.worker_id == worker_id, JobRecord.state == "running")
        free = {"lease_until": self._clock() - timedelta(microseconds=1)}
        with writing(self._engine) as session:
            return session.connection().execute(update(JobRecord).where(held).values(free)).rowcount

    def holders(self) -> set[str]:
        """The workers that hold jobs which run in their own processes."""
        busy = select(JobRecord.worker_id).where(
            JobRecord.state == "running",
            JobRecord.queue.is_not(None),
            JobRecord.lease_until >= self._clock(),
        )
        with reading(self._engine) as session:
            return {worker for worker in session.scalars(busy) if worker is not None}

    def succeed(self, lease: Lease, result: dict[str, Any]) -> bool:
        """End the job with its result; False if it is no longer held."""
        done = Progress(fraction=1).model_dump()
        return self._finish(lease, {"state": "succeeded", "result": result, "progress": done})

    def fail(self, lease: Lease, error: OpsinError) -> bool:
        """End the job with an error; False if it is no longer held."""
        values = {"state": "failed", "error_code": error.code, "error_detail": error.detail}
        return self._finish(lease, values)

    def cancel(self, lease: Lease) -> bool:
        """End the job because a client has cancelled it; False if it is no longer held."""
        return self._finish(lease, {"state": "cancelled"})

    def is_cancel_requested(self, job_id: str) -> bool:
        """Whether the work should stop, because the job was cancelled or deleted."""
        with reading(self._engine) as session:
            record = session.get(JobRecord, job_id)
            return record is None or record.cancel_requested or record.state == "cancelled"

    def give_up(self, job_id: str, error: OpsinError) -> bool:
        """End a job with an error before any worker takes it; False if it is not queued."""
        with writing(self._engine) as session:
            which = and_(JobRecord.id == job_id, JobRecord.state == "queued")
            ended = _take(session, which, _failure(error, self._clock()))
            kinds = _kinds(session, ended)
        for kind in kinds.values():
            self._ended(kind, "failed", error.code)
        return bool(ended)

    def sweep(self, stale_seconds: float, waiting: timedelta = timedelta.max) -> SweepResult:
        """End jobs whose lease has expired for the last time, and find lost tasks.

        Every process may call this at any time: a job to be sent again is returned to one caller,
        and to none for the next `stale_seconds`.

        Args:
            stale_seconds: If a job is still queued this long after its task was sent, the task
                counts as lost.
            waiting: How long a job for an inference worker may be queued while none of its
                version is begun or running. Those in a queue of their own may wait for jobs that
                run for days.
        """
        now = self._clock()
        lost, cancel, queued = _lost(now), JobRecord.cancel_requested, JobRecord.state == "queued"
        stale = JobRecord.sent_at <= now - timedelta(seconds=stale_seconds)
        # A task sent before the lease expired has been consumed, however recent it is.
        spent = and_(lost, JobRecord.sent_at < JobRecord.lease_until)
        unserved = self._unserved(now, waiting) if waiting < timedelta.max else []
        with writing(self._engine) as session:
            cancelled = _take(
                session, and_(lost, cancel), {"state": "cancelled", "finished_at": now}
            )
            failed = {
                job_id: error.code
                for inference, maximum, error in _GIVE_UP_RULES
                for job_id in _take(
                    session,
                    and_(
                        lost, JobRecord.queue.is_(None) == inference, JobRecord.stalled >= maximum
                    ),
                    _failure(error, now),
                )
            }
            for batch in batches(unserved):
                which = and_(queued, JobRecord.id.in_(batch))
                ended = _take(session, which, _failure(_NEVER_LOADED, now))
                failed |= dict.fromkeys(ended, _NEVER_LOADED.code)
            resend = _take(session, and_(or_(queued, lost), or_(stale, spent)), {"sent_at": now})
            kinds = _kinds(session, [*cancelled, *failed])
        for job_id in (*cancelled, *failed):
            state = "failed" if job_id in failed else "cancelled"
            self._ended(kinds.get(job_id, ""), state, failed.get(job_id, ""))
        return SweepResult(resend, list(failed), cancelled)

    def _unserved(self, now: datetime, waiting: timedelta) -> list[str]:
        """Jobs that have waited so long while none of their version ran or began."""
        record, versions = JobRecord, dict[tuple[Any, Any], list[str]]()
        overdue = and_(record.state == "queued", record.created_at <= now - waiting)
        runs = and_(record.state == "running", record.lease_until >= now)
        begun = or_(runs, record.started_at > now - waiting)
        query = select(record.id, record.request).where(record.queue.is_(None))
        served = query.where(begun).execution_options(yield_per=_AT_A_TIME)
        unserved = list[str]()
        with reading(self._engine) as session:
            for job_id, request in session.execute(query.where(overdue)):
                versions.setdefault(_version(request), []).append(job_id)
            for version, ids in versions.items():
                same_model = served.where(JsonText(record.request, "model") == version[0])
                with session.execute(same_model) as found:
                    if all(_version(request) != version for _, request in found):
                        unserved += ids
        return unserved

    def _finish(self, lease: Lease, values: dict[str, Any]) -> bool:
        ended = self._write(lease, values | {"finished_at": self._clock(), "lease_until": None})
        if ended:
            self._ended(lease.kind, values["state"], values.get("error_code", ""))
        return ended

    def _ended(self, kind: str, state: str, code: str) -> None:
        self._metrics.inc("jobs_ended_total", kind, state, code)
        if kind == "enrollment":
            self._metrics.inc("face_enrollments_total", state, code)

    def _write(self, lease: Lease, values: dict[str, Any]) -> bool:
        with writing(self._engine) as session:
            return _changed(session, _held_by(lease), values)

    def _append(self, lease: Lease, write: Callable[[Session, int], None]) -> bool:
        """Number an entry and write it, if the job is still held."""
        with writing(self._engine) as session:
            if not _changed(session, _held_by(lease), {"sequence": JobRecord.sequence + 1}):
                return False
            sequence = session.scalars(select(JobRecord.sequence).where(_held_by(lease))).one()
            if sequence > MAX_ENTRIES:
                raise InternalError(f"A job may write at most {MAX_ENTRIES} metrics and files.")
            write(session, sequence)
            return True

    def _claim(
        self, session: Session, job_id: str, worker_id: str, now: datetime, lease_seconds: float
    ) -> Lease | None:
        taken = {
            "state": "running",
            "attempt": JobRecord.attempt + 1,
            "stalled": JobRecord.stalled + 1,
            "worker_id": worker_id,
            "lease_until": now + timedelta(seconds=lease_seconds),
            "started_at": func.coalesce(JobRecord.started_at, literal(now, UtcTime())),
        }
        is_job = JobRecord.id == job_id
        if not _changed(session, and_(is_job, _free(now)), taken):
            return None
        record = session.scalars(select(JobRecord).where(is_job)).one()
        if record.queue is not None:
            # A phase from the first second on: the process has yet to be started.
            record.progress = Progress(fraction=0, phase=STARTING).model_dump()
        return _lease(record, worker_id)


def _lease(record: JobRecord, worker_id: str) -> Lease:
    return Lease(
        record.id,
        worker_id,
        record.attempt,
        record.kind,
        record.request,
        Origin.of_json(record.origin),
        record.created_at,
        _scopes(record),
    )


def _scopes(record: JobRecord) -> frozenset[str] | None:
    return None if record.scopes is None else frozenset(record.scopes.split(","))


def _held_by(lease: Lease) -> ColumnElement[bool]:
    return and_(
        JobRecord.id == lease.job_id,
        JobRecord.state == "running",
        JobRecord.worker_id == lease.worker_id,
        JobRecord.attempt == lease.attempt,
    )


def _free(now: datetime) -> ColumnElement[bool]:
    """Queued, or lost by its worker and not given up."""
    maximum = case((JobRecord.queue.is_(None), MAX_ATTEMPTS), else_=MAX_STALLED_ATTEMPTS)
    again = and_(_lost(now), JobRecord.stalled < maximum)
    return and_(or_(JobRecord.state == "queued", again), ~JobRecord.cancel_requested)


def _failure(error: OpsinError, now: datetime) -> dict[str, Any]:
    return {
        "state": "failed",
        "finished_at": now,
        "lease_until": None,
        "error_code": error.code,
        "error_detail": error.detail,
    }


def _fail(record: JobRecord, error: OpsinError, now: datetime) -> None:
    for name, value in _failure(error, now).items():
        setattr(record, name, value)


def _lost(now: datetime) -> ColumnElement[bool]:
    return and_(JobRecord.state == "running", JobRecord.lease_until < now)


def _version(request: dict[str, Any]) -> tuple[Any, Any]:
    return request.get("model"), request.get("version")


def _changed(session: Session, which: ColumnElement[bool], values: dict[str, Any]) -> bool:
    statement = update(JobRecord).where(which).values(values)
    return session.connection().execute(statement).rowcount == 1


def _kinds(session: Session, ids: list[str]) -> dict[str, str]:
    """The kinds of jobs, by id."""
    query = select(JobRecord.id, JobRecord.kind)
    return {
        job_id: kind
        for batch in batches(ids)
        for job_id, kind in session.execute(query.where(JobRecord.id.in_(batch)))
    }


def _take(session: Session, which: ColumnElement[bool], values: dict[str, Any]) -> list[str]:
    """Change the matching rows, each for one caller only; return their ids."""
    # skip_locked: another sweep or a worker is dealing with locked rows.
    matching = select(JobRecord.id).where(which).with_for_update(skip_locked=True)
    ids = list(session.scalars(matching))
    for batch in batches(ids):
        session.execute(update(JobRecord).where(JobRecord.id.in_(batch)).values(values))
    return ids
