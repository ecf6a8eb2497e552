"""A job's life as server-sent events.

An event's id is a number that only grows during a stream, and it is derived from the job alone: it
says up to where the life of the job was told (its state and progress), and up to where its entries
(metrics and artifacts). So any API process can resume any stream, a finished job can be replayed,
and nothing is stored for it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from fastapi.sse import ServerSentEvent
from starlette.concurrency import run_in_threadpool

from contracts.errors import OpsinError
from contracts.jobs import FINISHED, Job
from database.jobs.jobs import History

POLL_SECONDS = 0.5
LONGEST_SECONDS = 600.0  # then the client reconnects by itself and resumes
RETRY_MS = 1000

# Ids within one attempt: it runs (0), progress (1 to 1,000,001), it waits again, it is finished.
_ATTEMPT = 4_000_000
_WAITS_AGAIN = 2_000_000
_FINISHED = 3_000_000
_BEFORE_ALL = -1
_ENTRIES = 1_000_000  # more entries than a job may have, see `database.jobs.leases.MOST_TOLD`


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a job."""

    id: int  # of its own sort
    name: str
    data: dict[str, Any]


def events_of(job: Job) -> list[Event]:
    """What can be told of the job now, oldest first."""
    base = job.attempt * _ATTEMPT
    found = []
    if job.started_at is not None and job.attempt:
        found.append(Event(base, "state", {"state": "running", "attempt": job.attempt}))
        offset = 1 + round(job.progress.fraction * 1_000_000)
        told = job.progress.model_dump(exclude_none=True)
        found.append(Event(base + offset, "progress", told))
    if job.state == "queued":
        offset = _WAITS_AGAIN if job.attempt else 0
        found.append(Event(base + offset, "state", {"state": "queued", "attempt": job.attempt}))
    elif job.state in FINISHED:
        ended = {"state": job.state, "attempt": job.attempt, "error": job.error}
        data = {k: v for k, v in ended.items() if v is not None}
        found.append(Event(base + _FINISHED, "state", data))
    return found


@dataclass(frozen=True, slots=True)
class Told:
    """Up to where a client was told.

    Attributes:
        life: The number of the last event of `events_of`.
        entries: The number of the last entry.
    """

    life: int = _BEFORE_ALL
    entries: int = 0

    @property
    def id(self) -> str:
        # One more, so that a client which has seen entries only is told the life from its start.
        return str((self.life + 1) * _ENTRIES + self.entries)


def last_told(header: str | None) -> Told:
    """What a client has seen last; a foreign id counts as none."""
    if header is None or not (header.isascii() and header.isdecimal()) or len(header) > 18:
        return Told()
    life, entries = divmod(int(header), _ENTRIES)
    return Told(life - 1, entries)


def news(history: History, told: Told) -> list[tuple[Told, Event]]:
    """What is to be told next, in order, each with where the client then stands.

    Entries come before the end: who sees a job finished has seen all it made.
    """
    found = []
    life = [event for event in events_of(history.job) if event.id > told.life]
    ended = [event for event in life if event.id % _ATTEMPT == _FINISHED]
    for event in life[: len(life) - len(ended)]:
        told = Told(event.id, told.entries)
        found.append((told, event))
    for entry in history.entries:
        if entry.told > told.entries:
            told = Told(told.life, entry.told)
            found.append((told, Event(entry.told, entry.name, entry.data)))
    for event in ended:
        told = Told(event.id, told.entries)
        found.append((told, event))
    return found


async def follow(
    look: Callable[[int], History],
    told: Told,
    *,
    may_go_on: Callable[[], bool] = lambda: True,
    poll_seconds: float = POLL_SECONDS,
    longest_seconds: float = LONGEST_SECONDS,
) -> AsyncIterator[ServerSentEvent]:
    """Tell what happens to a job until it is finished, or the longest time is over.

    Args:
        look: Reads the job and its entries after that number; run in a thread.
        told: What the client has seen.
        may_go_on: Whether the client may still be told anything; asked before each look.
        poll_seconds: Time between two looks.
        longest_seconds: After which the stream ends; the client resumes with `Last-Event-ID`.
    """
    until = time.monotonic() + longest_seconds
    while may_go_on():
        try:
            history = await run_in_threadpool(look, told.entries)
        except OpsinError:
            return  # Deleted meanwhile, or no database: the client asks again and is told.
        for standing, event in news(history, told):
            told = standing
            yield ServerSentEvent(event=event.name, data=event.data, id=told.id, retry=RETRY_MS)
        if history.job.state in FINISHED or time.monotonic() >= until:
            return
        await asyncio.sleep(poll_seconds)
