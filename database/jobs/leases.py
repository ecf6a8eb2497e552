"""Jobs as workers see them: taken on a lease, kept by a heartbeat, finished once.

A worker that dies says nothing, so a job is held only until its lease runs out; then another
may take it. The lease carries the attempt's number, so that a worker which was only slow, and
comes back after another took its job, can change nothing any more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Engine, and_, case, func, literal, or_, select, update
from sqlalchemy.orm import Session

from contracts.errors import InternalError, OpsinError
from contracts.jobs import FINISHED, Progress
from database.engine import reading, writing
from database.jobs.jobs import Clock
from database.tables import ArtifactRecord, JobRecord, MetricRecord, UtcTime

MOST_ATTEMPTS = 3
"""Attempts in a row that got no further, of what runs beside the lanes."""

MOST_STALLED = 10
"""The same of work in a process of its own, which goes on from a checkpoint."""

MOST_STARVED = 3
"""The same where memory was wanting: more attempts would not find more of it."""

MOST_CRASHED = 3
"""The same where the process broke on what it was doing: it would break on it again."""

MOST_TOLD = 100_000
"""Metrics and artifacts one job may write, replaced ones counted."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on one job.

    Attributes:
        job_id: Which job.
        worker_id: Who holds it.
        attempt: The how-manieth try this is, from 1.
        kind: What is to be done.
        request: How, as it was given to `Jobs.create`.
    """

    job_id: str
    worker_id: str
    attempt: int
    kind: str
    request: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep found: jobs whose task is to be sent again, and jobs that have ended."""

    resend: list[str]
    failed: list[str]
    cancelled: list[str]


Look = Literal["held", "cancelled", "lost"]

_GIVEN_UP = (
    (
        True,
        MOST_ATTEMPTS,
        InternalError(f"The worker was lost {MOST_ATTEMPTS} times. Send the request again."),
    ),
    (
        False,
        MOST_STALLED,
        InternalError(
            f"Its process was lost {MOST_STALLED} times in a row without getting further. "
            "The job worker's log says how; send the request again once that is mended."
        ),
    ),
)
_STARVED = InternalError(
    f"Memory was wanting: the system ended its process {MOST_STARVED} times in a row without "
    "its getting further. Ask for a smaller batch, image or network, or give it more memory."
)
_CRASHED = InternalError(
    f"Its process crashed {MOST_CRASHED} times in a row without getting further. The job worker's "
    "log says how; ask for something else, or send it again once that is mended."
)


class Leases:
    """The workers' side of the table of jobs. Every method is one transaction."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def claim(self, job_id: str, worker_id: str, lease_seconds: float) -> Lease | None:
        """Take a job that is queued, or whose worker let its lease run out.

        Returns:
            The lease; None if the job is gone, finished, cancelled, held by another or given
            up, and there is nothing to do.
        """
        with writing(self._engine) as session:
            return self._claim(session, job_id, worker_id, lease_seconds)

    def claim_next(self, queue: str, worker_id: str, lease_seconds: float) -> Lease | None:
        """Take the oldest job of a queue that is free; None if there is none."""
        waits = and_(JobRecord.queue == queue, _free(self._clock()))
        oldest = (
            select(JobRecord.id)
            .where(waits)
            .order_by(JobRecord.created_at, JobRecord.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with reading(self._engine) as session:
            if session.scalar(select(JobRecord.id).where(waits).limit(1)) is None:
                return None  # most looks end here, and keep nobody from writing
        with writing(self._engine) as session:
            job_id = session.scalar(oldest)
            if job_id is None:
                return None
            return self._claim(session, job_id, worker_id, lease_seconds)

    def held(self, job_id: str, worker_id: str, attempt: int) -> Lease | None:
        """The lease that the parent of this process has taken; None if it is held no more."""
        with reading(self._engine) as session:
            record = session.get(JobRecord, job_id)
            mine = ("running", worker_id, attempt)
            if record is None or (record.state, record.worker_id, record.attempt) != mine:
                return None
            return _lease(record, worker_id)

    def look(self, lease: Lease) -> Look:
        """Whether the work should go on."""
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
        """Keep the job for longer; False if it is no longer held, and work should stop."""
        until = self._clock() + timedelta(seconds=lease_seconds)
        return self._write(lease, {"lease_until": until})

    def progress(self, lease: Lease, progress: Progress) -> bool:
        """Tell how far it is; False if the job is no longer held."""
        millionths = round(progress.fraction * 1_000_000)
        further = JobRecord.furthest < millionths
        told = {
            "progress": progress.model_dump(),
            "stalled": case((further, 0), else_=JobRecord.stalled),
            "furthest": case((further, millionths), else_=JobRecord.furthest),
        }
        return self._write(lease, told)

    def metrics(self, lease: Lease, key: str, row: dict[str, Any]) -> bool:
        """Add a row, or replace the one of that key; False if the job is no longer held."""

        def write(session: Session, told: int) -> None:
            known = session.get(MetricRecord, (lease.job_id, key))
            if known is not None:
                known.told, known.row = told, row
                return
            new = MetricRecord(job_id=lease.job_id, key=key, place=told, told=told, row=row)
            session.add(new)
            # A row of its own is progress, whatever the fraction says.
            session.execute(update(JobRecord).where(JobRecord.id == lease.job_id).values(stalled=0))

        return self._tell(lease, write)

    def artifact(self, lease: Lease, name: str, media_type: str, size: int) -> bool:
        """Tell of a file that was written or replaced; False if the job is no longer held."""

        def write(session: Session, told: int) -> None:
            known = session.get(ArtifactRecord, (lease.job_id, name))
            place = known.place if known is not None else told
            row = {"media_type": media_type, "size": size, "place": place, "told": told}
            session.merge(ArtifactRecord(job_id=lease.job_id, name=name, **row))

        return self._tell(lease, write)

    def release(
        self,
        lease: Lease,
        *,
        was_asked: bool = False,
        starved: bool = False,
        crashed: bool = False,
    ) -> bool:
        """Give the job back unfinished, so that the next attempt need not wait.

        Args:
            lease: What is given back.
            was_asked: The process was told to stop: the attempt does not count.
            starved: It was ended for want of memory.
            crashed: It was ended by a fault of its own.

        Returns:
            False if it was no longer held.
        """
        now = self._clock()
        free: dict[str, Any] = {"lease_until": now - timedelta(microseconds=1)}
        if was_asked:
            free["stalled"] = case((JobRecord.stalled > 0, JobRecord.stalled - 1), else_=0)
        with writing(self._engine) as session:
            if not _changed(session, _held_by(lease), free):
                return False
            record = session.get(JobRecord, lease.job_id)
            if starved and record is not None and record.stalled >= MOST_STARVED:
                _end(record, _STARVED, now)
            if crashed and record is not None and record.stalled >= MOST_CRASHED:
                _end(record, _CRASHED, now)
            return True

    def has_ended(self, job_id: str) -> bool:
        """Whether nobody will work on it any more."""
        with reading(self._engine) as session:
            record = session.get(JobRecord, job_id)
            return record is None or record.state in FINISHED

    def release_all(self, worker_id: str) -> int:
        """Give back what a worker that is surely dead still holds; returns how many jobs."""
        gone = and_(JobRecord.worker_id == worker_id, JobRecord.state == "running")
        free = {"lease_until": self._clock() - timedelta(microseconds=1)}
        with writing(self._engine) as session:
            return session.connection().execute(update(JobRecord).where(gone).values(free)).rowcount

    def holders(self) -> set[str]:
        """The workers that hold work in processes of its own."""
        busy = select(JobRecord.worker_id).where(
            JobRecord.state == "running",
            JobRecord.queue.is_not(None),
            JobRecord.lease_until >= self._clock(),
        )
        with reading(self._engine) as session:
            return {one for one in session.scalars(busy) if one is not None}

    def succeed(self, lease: Lease, result: dict[str, Any]) -> bool:
        """End the job with its result; False if it is no longer held: nothing was written."""
        done = Progress(fraction=1).model_dump()
        return self._finish(lease, {"state": "succeeded", "result": result, "progress": done})

    def fail(self, lease: Lease, error: OpsinError) -> bool:
        """End the job with an error; False if it is no longer held."""
        told = {"error_code": error.code, "error_detail": error.detail}
        return self._finish(lease, {"state": "failed"} | told)

    def cancelled(self, lease: Lease) -> bool:
        """End the job because it was asked to end; False if it is no longer held."""
        return self._finish(lease, {"state": "cancelled"})

    def is_cancel_requested(self, job_id: str) -> bool:
        """Whether the work should stop: someone asked for it, or the job is gone."""
        with reading(self._engine) as session:
            record = session.get(JobRecord, job_id)
            return record is None or record.cancel_requested or record.state == "cancelled"

    def sweep(self, stale_seconds: float) -> Swept:
        """End what nobody works on any more, and say which tasks seem to be lost.

        Every process may call it at any time: a job to be sent again is named to one caller,
        and to none for the next `stale_seconds`.

        Args:
            stale_seconds: A task that was sent so long ago and is still queued is taken as lost.
        """
        now = self._clock()
        lost, asked = _lost(now), JobRecord.cancel_requested
        waiting = or_(JobRecord.state == "queued", lost)
        stale = JobRecord.sent_at <= now - timedelta(seconds=stale_seconds)
        # A task sent before the lease ran out has done its part, however young it is.
        spent = and_(lost, JobRecord.sent_at < JobRecord.lease_until)
        with writing(self._engine) as session:
            cancelled = _take(
                session, and_(lost, asked), {"state": "cancelled", "finished_at": now}
            )
            failed = [
                job_id
                for beside, most, error in _GIVEN_UP
                for job_id in _take(
                    session,
                    and_(lost, JobRecord.queue.is_(None) == beside, JobRecord.stalled >= most),
                    _ended(error, now),
                )
            ]
            resend = _take(session, and_(waiting, or_(stale, spent)), {"sent_at": now})
        return Swept(resend, failed, cancelled)

    def _finish(self, lease: Lease, values: dict[str, Any]) -> bool:
        return self._write(lease, values | {"finished_at": self._clock(), "lease_until": None})

    def _write(self, lease: Lease, values: dict[str, Any]) -> bool:
        with writing(self._engine) as session:
            return _changed(session, _held_by(lease), values)

    def _tell(self, lease: Lease, write: Callable[[Session, int], None]) -> bool:
        """Number an entry and write it, if the job is still held."""
        with writing(self._engine) as session:
            if not _changed(session, _held_by(lease), {"told": JobRecord.told + 1}):
                return False
            told = session.scalars(select(JobRecord.told).where(_held_by(lease))).one()
            if told > MOST_TOLD:
                raise InternalError(f"A job may tell of {MOST_TOLD} metrics and files, no more.")
            write(session, told)
            return True

    def _claim(
        self, session: Session, job_id: str, worker_id: str, lease_seconds: float
    ) -> Lease | None:
        now = self._clock()
        taken = {
            "state": "running",
            "attempt": JobRecord.attempt + 1,
            "stalled": JobRecord.stalled + 1,
            "worker_id": worker_id,
            "lease_until": now + timedelta(seconds=lease_seconds),
            "started_at": func.coalesce(JobRecord.started_at, literal(now, UtcTime())),
        }
        mine = JobRecord.id == job_id
        if not _changed(session, and_(mine, _free(now)), taken):
            return None
        return _lease(session.scalars(select(JobRecord).where(mine)).one(), worker_id)


def _lease(record: JobRecord, worker_id: str) -> Lease:
    return Lease(record.id, worker_id, record.attempt, record.kind, record.request)


def _held_by(lease: Lease) -> ColumnElement[bool]:
    return and_(
        JobRecord.id == lease.job_id,
        JobRecord.state == "running",
        JobRecord.worker_id == lease.worker_id,
        JobRecord.attempt == lease.attempt,
    )


def _free(now: datetime) -> ColumnElement[bool]:
    """Queued, or lost by a worker and not given up."""
    most = case((JobRecord.queue.is_(None), MOST_ATTEMPTS), else_=MOST_STALLED)
    again = and_(_lost(now), JobRecord.stalled < most)
    return and_(or_(JobRecord.state == "queued", again), ~JobRecord.cancel_requested)


def _ended(error: OpsinError, now: datetime) -> dict[str, Any]:
    return {
        "state": "failed",
        "finished_at": now,
        "lease_until": None,
        "error_code": error.code,
        "error_detail": error.detail,
    }


def _end(record: JobRecord, error: OpsinError, now: datetime) -> None:
    for name, value in _ended(error, now).items():
        setattr(record, name, value)


def _lost(now: datetime) -> ColumnElement[bool]:
    return and_(JobRecord.state == "running", JobRecord.lease_until < now)


def _changed(session: Session, which: ColumnElement[bool], values: dict[str, Any]) -> bool:
    statement = update(JobRecord).where(which).values(values)
    return session.connection().execute(statement).rowcount == 1


def _take(session: Session, which: ColumnElement[bool], values: dict[str, Any]) -> list[str]:
    """Change the rows that match, each for one caller only; returns their ids."""
    # skip_locked: what another sweep or a worker holds right now is in good hands.
    matching = select(JobRecord.id).where(which).with_for_update(skip_locked=True)
    ids = list(session.scalars(matching))
    if ids:
        session.execute(update(JobRecord).where(JobRecord.id.in_(ids)).values(values))
    return ids
