"""Queries that turn rows into jobs: with metrics, artifacts and the position in the queue."""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Text,
    and_,
    case,
    cast,
    delete,
    false,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session, defer

from contracts.jobs import FINISHED, NAMED_KINDS, UNNAMED_KINDS, Artifact, Job, JobError
from database.engine import batches
from database.jobs.turns import turns
from database.json_text import JsonText
from database.paging import length_of, rows_within, sizes_of
from database.tables import ArtifactRecord, JobRecord, MetricRecord


@dataclass(frozen=True, slots=True)
class JobEntry:
    """A metrics row or an artifact of a job.

    Attributes:
        sequence: Increases with each entry of a job; a replaced entry gets a new number.
        data: The row, or the artifact as JSON.
    """

    sequence: int
    name: Literal["metrics", "artifact"]
    data: dict[str, Any]


_SUBJECT = re.compile(r"(?<![\w-])sub_[A-Za-z0-9_-]{1,60}(?![\w-])")
_ROWS = 20  # at a time, since a result may have megabytes


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job whose result is the JSON that is stored.

    A result can have megabytes. To make objects of it and JSON again takes a hundred times as long
    as to pass it on, in which no other thread makes progress.

    Attributes:
        job: Without its result.
        result: JSON; None if there is none.
    """

    job: Job
    result: str | None

    def as_json(self) -> str:
        """As clients get it."""
        fields = self.job.model_dump_json(exclude={"result"})
        result = "null" if self.result is None else self.result
        return f'{fields[:-1]},"result":{result}}}'

    def whole(self) -> Job:
        """With its result."""
        result = None if self.result is None else json.loads(self.result)
        return self.job.model_copy(update={"result": result})


INFERENCE = "inference"
"""In place of a queue, for jobs that run on inference workers."""


@dataclass(frozen=True, slots=True)
class JobCounts:
    """The jobs in the database at one moment.

    Attributes:
        by_state: How many, by kind, queue and state.
        oldest_seconds: Age of the oldest queued job, by queue.
        overdue_seconds: For how long the lease of a running job has expired, at most.
    """

    by_state: dict[tuple[str, str, str], int] = field(default_factory=dict)
    oldest_seconds: dict[str, float] = field(default_factory=dict)
    overdue_seconds: float = 0.0


def jobs_of(
    session: Session, records: Sequence[JobRecord], *, with_results: bool = True
) -> list[Job]:
    """Convert rows to jobs, in the same order, with two queries for all of them."""
    ids = [record.id for record in records]
    metrics: dict[str, list[dict[str, Any]]] = {}
    for row in _rows_of(session, MetricRecord, ids):
        metrics.setdefault(row.job_id, []).append(row.row)
    artifacts: dict[str, list[Artifact]] = {}
    for row in _rows_of(session, ArtifactRecord, ids):
        artifacts.setdefault(row.job_id, []).append(_artifact(row))
    positions = _positions(session, records)
    return [
        Job.model_validate(
            _fields(record)
            | {
                "result": record.result if with_results else None,
                "metrics": metrics.get(record.id, []),
                "artifacts": artifacts.get(record.id, []),
                "queue_position": positions.get(record.id),
            }
        )
        for record in records
    ]


def jobs_within(session: Session, ids: Sequence[str], most: int) -> dict[str, int]:
    """The first of these jobs that have no more than `most` bytes together, at least one.

    A result can have megabytes, and clients may have as many finished jobs as they like.

    Returns:
        The bytes of each, by id, in order.
    """
    row, metric = JobRecord, MetricRecord
    metrics = select(func.sum(length_of(metric.row))).where(metric.job_id == row.id)
    own = length_of(row.request) + length_of(row.result)
    size = own + func.coalesce(metrics.scalar_subquery(), 0)
    return rows_within(sizes_of(session, ids, row.id, size), most)


def stored_jobs(session: Session, ids: Collection[str]) -> list[StoredJob]:
    """The existing ones of those jobs, in the same order."""
    rows, results = dict[str, JobRecord](), dict[str, str | None]()
    query = select(JobRecord, cast(JobRecord.result, Text)).options(
        defer(JobRecord.result, raiseload=True)
    )
    for batch in batches(ids):
        for record, result in session.execute(query.where(JobRecord.id.in_(batch))):
            rows[record.id], results[record.id] = record, result
    records = [rows[job_id] for job_id in ids if job_id in rows]
    jobs = jobs_of(session, records, with_results=False)
    return [StoredJob(job, results[job.id]) for job in jobs]


def artifacts_of(session: Session, job_id: str) -> list[Artifact]:
    """The artifacts of a job."""
    return [_artifact(row) for row in _rows_of(session, ArtifactRecord, [job_id])]


def entries(session: Session, job_id: str, after: int) -> list[JobEntry]:
    """The metrics and artifacts of a job after a sequence number, oldest first."""

    def later(table: Any) -> Any:
        return session.scalars(
            select(table).where(table.job_id == job_id, table.sequence > after)
        ).all()

    result = [JobEntry(row.sequence, "metrics", row.row) for row in later(MetricRecord)]
    result += [
        JobEntry(row.sequence, "artifact", _artifact(row).model_dump())
        for row in later(ArtifactRecord)
    ]
    return sorted(result, key=lambda entry: entry.sequence)


def enrollments_of(subject_ids: Collection[str]) -> ColumnElement[bool]:
    """The jobs that enroll these subjects, by an index."""
    # The kind as the index has it, not as a parameter.
    is_enrollment = JobRecord.kind == literal_column("'enrollment'")
    return and_(is_enrollment, JsonText(JobRecord.request, "subject_id").in_(subject_ids))


def about_person(
    session: Session, subject_id: str, versions: Collection[tuple[str, int]]
) -> list[str]:
    """See `database.jobs.jobs.Jobs.erase_about`."""
    row = JobRecord
    # Requests and results can be megabytes. Jobs without the scope `faces` contain no names.
    people = or_(row.scopes.is_(None), row.scopes.contains("faces"))
    has_ended = or_(row.kind != "training", row.state.in_(FINISHED))
    named = or_(
        *(
            cast(column, Text).contains(subject_id, autoescape=True)
            for column in (row.request, row.result)
        )
    )
    model, version, against = (
        row.request[name].as_string() for name in ("model", "version", "against")
    )
    used = [
        and_(model == name, or_(version == str(number), against == str(number)))
        for name, number in versions
    ]
    # In earlier releases, some jobs were answered by another version than that of the request, and
    # trainings named the classes of the champion; they have no scope `faces`.
    answered = row.result["version"].as_string()
    by_another = [and_(model == name, answered == str(number)) for name, number in versions]
    trained = and_(
        model.in_({name for name, _ in versions}),
        row.state.in_(FINISHED),
        cast(row.result, Text).contains(subject_id, autoescape=True),
    )
    is_about = or_(
        and_(row.kind != "enrollment", people, has_ended, or_(named, *used)),
        and_(row.kind.in_(("classify", "embed")), or_(false(), *by_another)),
        and_(row.kind.in_(("training", "sweep")), trained),
    )
    query = select(row.id).where(is_about)
    return list(session.scalars(query))


def subjects_named(session: Session) -> set[str]:
    """See `database.jobs.jobs.Jobs.subjects`."""
    found = set[str]()
    for column in (JobRecord.request, JobRecord.result):
        text = cast(column, Text)
        query = select(text).where(text.contains("sub_", autoescape=True))
        for content in session.scalars(query.execution_options(yield_per=_ROWS)):
            found.update(_SUBJECT.findall(content))
    return found


def versions_of_people(session: Session) -> set[tuple[str, int]]:
    """See `database.jobs.jobs.Jobs.versions_of_people`."""
    model, *numbers = (
        JobRecord.request[name].as_string() for name in ("model", "version", "against")
    )
    found = set[tuple[str, int]]()
    for number in numbers:
        query = select(model, number).distinct()
        query = query.where(JobRecord.scopes.contains("faces"), model.is_not(None))
        for name, version in session.execute(query):
            if version is not None and version.isdecimal():
                found.add((name, int(version)))
    return found


def end_jobs(session: Session, ids: Collection[str], now: datetime) -> None:
    """Cancel those of the jobs that have not ended; a worker that has one loses it."""
    row = JobRecord
    ended = {"state": "cancelled", "finished_at": now, "lease_until": None}
    for batch in batches(ids):
        unfinished = update(row).where(row.id.in_(batch), row.state.not_in(FINISHED))
        session.execute(unfinished.values(ended))


def delete_jobs(session: Session, ids: Collection[str]) -> None:
    """Delete the rows of jobs."""
    for batch in batches(ids):
        session.connection().execute(delete(JobRecord).where(JobRecord.id.in_(batch)))


def depths(session: Session) -> dict[str, tuple[int, int]]:
    """(queued, running) jobs by queue; queues without jobs are left out."""
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


def counts(session: Session, now: datetime) -> JobCounts:
    """How many jobs there are, and for how long some have waited."""
    by_state = select(JobRecord.kind, JobRecord.queue, JobRecord.state, func.count()).group_by(
        JobRecord.kind, JobRecord.queue, JobRecord.state
    )
    oldest = (
        select(JobRecord.queue, func.min(JobRecord.created_at))
        .where(JobRecord.state == "queued")
        .group_by(JobRecord.queue)
    )
    lease = select(func.min(JobRecord.lease_until)).where(JobRecord.state == "running")
    expired = session.scalar(lease)
    return JobCounts(
        {
            (kind, queue or INFERENCE, state): int(number)
            for kind, queue, state, number in session.execute(by_state)
        },
        {
            queue or INFERENCE: max(0.0, (now - created).total_seconds())
            for queue, created in session.execute(oldest)
        },
        max(0.0, (now - expired).total_seconds()) if expired else 0.0,
    )


def _rows_of(session: Session, table: Any, ids: list[str]) -> Any:
    if not ids:
        return []
    return session.scalars(select(table).where(table.job_id.in_(ids)).order_by(table.place)).all()


def _positions(session: Session, records: Sequence[JobRecord]) -> dict[str, int]:
    """The place of each queued one among those of its queue, from 1 for the next to start."""
    queues = {record.queue for record in records if record.state == "queued" and record.queue}
    return {
        job_id: place
        for queue in queues
        for place, job_id in enumerate(turns(session, queue, JobRecord.state == "queued"), 1)
    }


def state_of(record: JobRecord) -> Job:
    """The job without request, result, metrics and artifacts, which may have megabytes."""
    return Job.model_validate(_state(record))


def _fields(record: JobRecord) -> dict[str, Any]:
    about = None
    if record.kind not in UNNAMED_KINDS:
        about = record.request.get("name" if record.kind in NAMED_KINDS else "model")
    return _state(record) | {"about": about if isinstance(about, str) else None}


def _state(record: JobRecord) -> dict[str, Any]:
    error = None
    if record.error_code is not None:
        error = JobError(code=record.error_code, detail=record.error_detail or "")
    same = ("id", "kind", "state", "attempt", "progress")
    times = ("created_at", "started_at", "finished_at")
    scopes = None if record.scopes is None else record.scopes.split(",")
    fields = {name: getattr(record, name) for name in (*same, *times)}
    return fields | {"error": error, "scopes": scopes}


def _artifact(row: ArtifactRecord) -> Artifact:
    return Artifact(
        name=row.name,
        media_type=row.media_type,
        size=row.size,
        url=f"/v1/jobs/{row.job_id}/artifacts/{row.name}",
    )
