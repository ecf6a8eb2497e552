"""Rows as clients see them: a job with its metrics, its artifacts and its place in the queue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import and_, case, func, or_, select
from sqlalchemy.orm import Session

from contracts.jobs import Artifact, Job, JobError
from database.tables import ArtifactRecord, JobRecord, MetricRecord


@dataclass(frozen=True, slots=True)
class Entry:
    """A metrics row or an artifact that a job told of.

    Attributes:
        told: Grows with each entry of a job; one that is replaced gets a new number.
        name: Which of the two.
        data: It.
    """

    told: int
    name: Literal["metrics", "artifact"]
    data: dict[str, Any]


def jobs_of(session: Session, records: Sequence[JobRecord]) -> list[Job]:
    """The rows as clients see them, in the same order, in two queries for all."""
    ids = [record.id for record in records]
    metrics: dict[str, list[dict[str, Any]]] = {}
    for row in _belonging(session, MetricRecord, ids):
        metrics.setdefault(row.job_id, []).append(row.row)
    artifacts: dict[str, list[Artifact]] = {}
    for row in _belonging(session, ArtifactRecord, ids):
        artifacts.setdefault(row.job_id, []).append(_artifact(row))
    return [
        Job.model_validate(
            _plain(record)
            | {
                "metrics": metrics.get(record.id, []),
                "artifacts": artifacts.get(record.id, []),
                "queue_position": _position(session, record),
            }
        )
        for record in records
    ]


def entries(session: Session, job_id: str, after: int) -> list[Entry]:
    """What a job told after that number, oldest first."""

    def later(table: Any) -> Any:
        return session.scalars(
            select(table).where(table.job_id == job_id, table.told > after)
        ).all()

    found = [Entry(row.told, "metrics", row.row) for row in later(MetricRecord)]
    found += [
        Entry(row.told, "artifact", _artifact(row).model_dump()) for row in later(ArtifactRecord)
    ]
    return sorted(found, key=lambda entry: entry.told)


def depths(session: Session) -> dict[str, tuple[int, int]]:
    """How many jobs wait and how many run, by queue; queues without either are left out."""
    queued = func.sum(case((JobRecord.state == "queued", 1), else_=0))
    query = (
        select(JobRecord.queue, queued, func.count())
        .where(JobRecord.state.in_(("queued", "running")), JobRecord.queue.is_not(None))
        .group_by(JobRecord.queue)
    )
    return {
        str(queue): (int(waiting), int(total - waiting))
        for queue, waiting, total in session.execute(query)
    }


def _belonging(session: Session, table: Any, ids: list[str]) -> Any:
    if not ids:
        return []
    return session.scalars(select(table).where(table.job_id.in_(ids)).order_by(table.place)).all()


def _position(session: Session, record: JobRecord) -> int | None:
    """1 for the next; a job whose worker was lost is older, and so stands before."""
    if record.state != "queued" or record.queue is None:
        return None
    same_time = and_(JobRecord.created_at == record.created_at, JobRecord.id < record.id)
    before = select(func.count()).where(
        JobRecord.queue == record.queue,
        JobRecord.state == "queued",
        or_(JobRecord.created_at < record.created_at, same_time),
    )
    return 1 + (session.scalar(before) or 0)


def _plain(record: JobRecord) -> dict[str, Any]:
    error = None
    if record.error_code is not None:
        error = JobError(code=record.error_code, detail=record.error_detail or "")
    same = ("id", "kind", "state", "attempt", "progress", "result")
    times = ("created_at", "started_at", "finished_at")
    return {name: getattr(record, name) for name in (*same, *times)} | {"error": error}


def _artifact(row: ArtifactRecord) -> Artifact:
    return Artifact(
        name=row.name,
        media_type=row.media_type,
        size=row.size,
        url=f"/v1/jobs/{row.job_id}/artifacts/{row.name}",
    )
