"""A job's life as server-sent events.

An event's id is a number that only grows during a job's life, and it is derived from the job
alone. So any API process can resume any stream, a finished job can be replayed, and nothing needs
to be stored: an event is due when its id is greater than the last one told.
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

POLL_SECONDS = 0.5
LONGEST_SECONDS = 600.0  # then the client reconnects by itself and resumes
RETRY_MS = 1000

# Ids within one attempt: it runs (0), progress (1 to 1,000,001), it waits again, it is finished.
_ATTEMPT = 4_000_000
_WAITS_AGAIN = 2_000_000
_FINISHED = 3_000_000
_BEFORE_ALL = -1


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a job."""

    id: int
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


def last_told(header: str | None) -> int:
    """The id a client has seen last; a foreign one counts as none."""
    if header is None or not header.isdecimal() or len(header) > 18:
        return _BEFORE_ALL
    return int(header)


async def follow(
    look: Callable[[], Job],
    after: int,
    *,
    poll_seconds: float = POLL_SECONDS,
    longest_seconds: float = LONGEST_SECONDS,
) -> AsyncIterator[ServerSentEvent]:
    """Tell what happens to a job until it is finished, or the longest time is over.

    Args:
        look: Reads the job; run in a thread.
        after: The id of the last event the client has seen.
        poll_seconds: Time between two looks.
        longest_seconds: After which the stream ends; the client resumes with `Last-Event-ID`.
    """
    until = time.monotonic() + longest_seconds
    while True:
        try:
            job = await run_in_threadpool(look)
        except OpsinError:
            return  # Deleted meanwhile, or no database: the client asks again and is told.
        for event in events_of(job):
            if event.id > after:
                after = event.id
                yield ServerSentEvent(
                    event=event.name, data=event.data, id=str(event.id), retry=RETRY_MS
                )
        if job.state in FINISHED or time.monotonic() >= until:
            return
        await asyncio.sleep(poll_seconds)
