"""How many unfinished jobs there may be: in total, of one client and in one queue.

A client may have as many unfinished jobs as there are free places left, without a tenth that is
kept for clients without any: alone 45 of 100 places, two of them 30 each. So a new client finds a
place however busy the others are. And a tenth is kept for each queue, so that images to be drawn
never close the door to an enrollment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from contracts.errors import QueueFull
from contracts.jobs import FINISHED, WORK_QUEUES
from database.tables import JobRecord

UNFINISHED = ("queued", "running")  # listed, so that the index on the state is used

_RATE_WINDOW = timedelta(minutes=1)
_KEPT_SHARE = 10  # a tenth of all places
_QUEUES = {None, *WORK_QUEUES.values()}


@dataclass(frozen=True, slots=True)
class _Counts:
    """Unfinished jobs, those of the record's client and queue among them."""

    total: int
    of_client: int
    by_queue: dict[str | None, int]


def require_room(session: Session, record: JobRecord, limit: int) -> None:
    """Check that a new job may be added.

    Args:
        session: A transaction that no other one can run beside, so that the counts stay true.
        record: The new job, which has not been added yet.
        limit: Maximum number of unfinished jobs, including this one.

    Raises:
        QueueFull: There is no room; the error says for whom and when to retry.
    """
    counts = _count(session, record)
    free = limit - counts.total
    if free <= 0:
        detail = f"There are {counts.total} unfinished jobs, the maximum. Retry later."
        raise QueueFull(detail, retry_after=_seconds_per_job(session, record.created_at))
    kept = limit // _KEPT_SHARE
    if record.client is not None and counts.of_client and counts.of_client >= free - kept:
        raise QueueFull(
            f"You have {counts.of_client} unfinished jobs, and the {free} free places are for "
            "others. Retry when some of yours have finished, or cancel them.",
            retry_after=_seconds_per_job(
                session, record.created_at, JobRecord.client == record.client
            ),
        )
    if free <= _kept_for_others(record.queue, counts.by_queue, kept):
        raise QueueFull(
            f"{counts.by_queue.get(record.queue, 0)} jobs of this kind are unfinished, and the "
            f"{free} free places are for other kinds. Retry later.",
            retry_after=_seconds_per_job(
                session, record.created_at, JobRecord.queue == record.queue
            ),
        )


def _count(session: Session, record: JobRecord) -> _Counts:
    unfinished: Sequence[tuple[str | None, str | None, int]] = [
        (queue, client, count)
        for queue, client, count in session.execute(
            select(JobRecord.queue, JobRecord.client, func.count())
            .where(JobRecord.state.in_(UNFINISHED))
            .group_by(JobRecord.queue, JobRecord.client)
        )
    ]
    by_queue: dict[str | None, int] = {}
    for queue, _, count in unfinished:
        by_queue[queue] = by_queue.get(queue, 0) + count
    of_client = sum(count for _, client, count in unfinished if client == record.client)
    return _Counts(sum(by_queue.values()), of_client, by_queue)


def _kept_for_others(queue: str | None, by_queue: dict[str | None, int], kept: int) -> int:
    return sum(max(0, kept - by_queue.get(other, 0)) for other in _QUEUES - {queue})


def _seconds_per_job(session: Session, now: datetime, *which: ColumnElement[bool]) -> float:
    """How long it takes until one of those jobs ends, judging by the last minute."""
    recently = JobRecord.finished_at > now - _RATE_WINDOW
    query = select(func.count()).where(JobRecord.state.in_(FINISHED), recently, *which)
    return _RATE_WINDOW.total_seconds() / max(session.scalar(query) or 0, 1)
