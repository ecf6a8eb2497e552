"""Jobs as workers see them: taken on a lease, kept by a heartbeat, finished once.

A worker that dies says nothing, so a job is held only until its lease runs out; then another
may take it. The lease carries the attempt's number, so that a worker which was only slow, and
comes back after another took its job, can change nothing any more.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, func, literal, or_, select, update
from sqlalchemy.orm import Session

from contracts.errors import OpsinError
from contracts.jobs import Progress
from database.engine import reading, writing
from database.jobs import Clock
from database.tables import JobRecord, UtcTime

MOST_ATTEMPTS = 3


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
        now = self._clock()
        free = or_(JobRecord.state == "queued", and_(_lost(now), JobRecord.attempt < MOST_ATTEMPTS))
        taken = {
            "state": "running",
            "attempt": JobRecord.attempt + 1,
            "worker_id": worker_id,
            "lease_until": now + timedelta(seconds=lease_seconds),
            "started_at": func.coalesce(JobRecord.started_at, literal(now, UtcTime())),
        }
        mine = JobRecord.id == job_id
        with writing(self._engine) as session:
            if not _changed(session, and_(mine, free, ~JobRecord.cancel_requested), taken):
                return None
            record = session.scalars(select(JobRecord).where(mine)).one()
            return Lease(job_id, worker_id, record.attempt, record.kind, record.request)

    def heartbeat(self, lease: Lease, lease_seconds: float) -> bool:
        """Keep the job for longer; False if it is no longer held, and work should stop."""
        until = self._clock() + timedelta(seconds=lease_seconds)
        return self._write(lease, {"lease_until": until})

    def progress(self, lease: Lease, progress: Progress) -> bool:
        """Tell how far it is; False if the job is no longer held."""
        return self._write(lease, {"progress": progress.model_dump()})

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
        given_up = {
            "state": "failed",
            "finished_at": now,
            "error_code": "internal_error",
            "error_detail": f"The worker was lost {MOST_ATTEMPTS} times. Send the request again.",
        }
        lost, asked = _lost(now), JobRecord.cancel_requested
        waiting = or_(JobRecord.state == "queued", lost)
        stale = JobRecord.sent_at <= now - timedelta(seconds=stale_seconds)
        # A task sent before the lease ran out has done its part, however young it is.
        spent = and_(lost, JobRecord.sent_at < JobRecord.lease_until)
        with writing(self._engine) as session:
            cancelled = _take(
                session, and_(lost, asked), {"state": "cancelled", "finished_at": now}
            )
            failed = _take(session, and_(lost, JobRecord.attempt >= MOST_ATTEMPTS), given_up)
            resend = _take(session, and_(waiting, or_(stale, spent)), {"sent_at": now})
        return Swept(resend, failed, cancelled)

    def _finish(self, lease: Lease, values: dict[str, Any]) -> bool:
        return self._write(lease, values | {"finished_at": self._clock(), "lease_until": None})

    def _write(self, lease: Lease, values: dict[str, Any]) -> bool:
        held = and_(
            JobRecord.id == lease.job_id,
            JobRecord.state == "running",
            JobRecord.worker_id == lease.worker_id,
            JobRecord.attempt == lease.attempt,
        )
        with writing(self._engine) as session:
            return _changed(session, held, values)


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
