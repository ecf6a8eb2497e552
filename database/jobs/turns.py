"""Whose turn it is in a queue of long jobs: clients in turn, each with its oldest job first.

First in, first out would let one client's fifty jobs keep everybody else waiting. The client whose
latest job started longest ago comes first; of those who are equal in that, the one whose job is
the oldest. Jobs without a known client count as one client.
"""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from database.tables import JobRecord

_NEVER = datetime.min.replace(tzinfo=UTC)


def turns(session: Session, queue: str, waiting: ColumnElement[bool]) -> Iterator[str]:
    """The ids of the waiting jobs of a queue in the order in which they will start.

    Args:
        waiting: Which of the queue's jobs wait. At most `OPSIN_JOB_LIMIT` of them do.
    """
    columns = (JobRecord.id, JobRecord.client, JobRecord.state)
    query = (
        select(*columns)
        .where(JobRecord.queue == queue, waiting)
        .order_by(JobRecord.created_at, JobRecord.id)
    )
    queued: dict[str | None, list[str]] = {}
    for job_id, client, state in session.execute(query):
        if state == "queued":
            queued.setdefault(client, []).append(job_id)
        else:  # its worker was lost; it has had its turn and goes on
            yield job_id
    yield from _in_turn(queued, _last_starts(session, queue, queued))


def _last_starts(
    session: Session, queue: str, clients: Collection[str | None]
) -> dict[str | None, datetime]:
    """When a job of each client that has waited for this queue started last."""
    if len(clients) < 2:
        return {}
    query = (
        select(JobRecord.client, func.max(JobRecord.started_at).label("started"))
        .where(JobRecord.queue == queue, JobRecord.started_at.is_not(None))
        .group_by(JobRecord.client)
    )
    return {row.client: row.started for row in session.execute(query)}


def _in_turn(
    queued: dict[str | None, list[str]], last_starts: dict[str | None, datetime]
) -> Iterator[str]:
    """One job of each client per round; the order of the clients stays the same in all rounds."""
    clients = sorted(queued, key=lambda client: last_starts.get(client, _NEVER))  # stable
    rounds = max(map(len, queued.values()), default=0)
    for number in range(rounds):
        for client in clients:
            if number < len(queued[client]):
                yield queued[client][number]
