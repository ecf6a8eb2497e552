"""A job's progress as server-sent events.

An event's id is a number that only grows during a stream and is derived from the job alone: it
holds how far the job's changes of state and progress were sent, and how far its entries (metrics
and artifacts). So any API process can resume any stream, a finished job can be replayed, and
nothing is stored for it.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic_core import to_jsonable_python

from contracts.errors import OpsinError
from contracts.jobs import FINISHED, Job
from database.jobs.jobs import JobHistory
from service.threads import run_in_threadpool

POLL_SECONDS = 0.5
MAX_SECONDS = 600.0  # then the client reconnects by itself and resumes
RETRY_MS = 1000
PING_SECONDS = 15.0  # without an event, so that proxies keep the connection
PIECE_BYTES = 64_000

# Numbers within one attempt: running (0), progress (1 to 1,000,001), queued again, finished.
_ATTEMPT = 4_000_000
_QUEUED_AGAIN = 2_000_000
_FINISHED = 3_000_000
_BEFORE_ALL = -1
_ENTRIES = 1_000_000  # more than a job's entries, see `database.jobs.leases.MAX_ENTRIES`


@dataclass(frozen=True, slots=True)
class Event:
    """A change of a job, or an entry; `id` counts each of the two separately."""

    id: int
    name: str
    data: dict[str, Any]


def events_of(job: Job) -> list[Event]:
    """The changes that a job's current state shows, oldest first."""
    base = job.attempt * _ATTEMPT
    events = []
    if job.started_at is not None and job.attempt:
        events.append(Event(base, "state", {"state": "running", "attempt": job.attempt}))
        offset = 1 + round(job.progress.fraction * 1_000_000)
        progress = job.progress.model_dump(exclude_none=True)
        events.append(Event(base + offset, "progress", progress))
    if job.state == "queued":
        offset = _QUEUED_AGAIN if job.attempt else 0
        events.append(Event(base + offset, "state", {"state": "queued", "attempt": job.attempt}))
    elif job.state in FINISHED:
        ended = {"state": job.state, "attempt": job.attempt, "error": job.error}
        data = {k: v for k, v in ended.items() if v is not None}
        events.append(Event(base + _FINISHED, "state", data))
    return events


@dataclass(frozen=True, slots=True)
class StreamCursor:
    """How far a stream was sent.

    Attributes:
        change: The number of the last event of `events_of`.
        entry: The number of the last entry.
    """

    change: int = _BEFORE_ALL
    entry: int = 0

    @property
    def id(self) -> str:
        # Plus one, so that a client that has received only entries is sent all changes.
        return str((self.change + 1) * _ENTRIES + self.entry)


def parse_last_event_id(header: str | None) -> StreamCursor:
    """The cursor of a `Last-Event-ID` header; an id that is not ours counts as none."""
    if header is None or not (header.isascii() and header.isdecimal()) or len(header) > 18:
        return StreamCursor()
    change, entry = divmod(int(header), _ENTRIES)
    return StreamCursor(change - 1, entry)


def pending_events(history: JobHistory, cursor: StreamCursor) -> list[tuple[StreamCursor, Event]]:
    """The events to send next, in order, each with the cursor after it.

    Entries come before the end: a client that sees a job finished has received all its results.
    """
    pending = []
    changes = [event for event in events_of(history.job) if event.id > cursor.change]
    ended = [event for event in changes if event.id % _ATTEMPT == _FINISHED]
    for event in changes[: len(changes) - len(ended)]:
        cursor = StreamCursor(event.id, cursor.entry)
        pending.append((cursor, event))
    for entry in history.entries:
        if entry.sequence > cursor.entry:
            cursor = StreamCursor(cursor.change, entry.sequence)
            pending.append((cursor, Event(entry.sequence, entry.name, entry.data)))
    for event in ended:
        cursor = StreamCursor(event.id, cursor.entry)
        pending.append((cursor, event))
    return pending


async def follow(
    read: Callable[[int], JobHistory],
    cursor: StreamCursor,
    *,
    may_continue: Callable[[], Awaitable[bool]],
    poll_seconds: float = POLL_SECONDS,
    max_seconds: float = MAX_SECONDS,
    ping_seconds: float = PING_SECONDS,
) -> AsyncIterator[bytes]:
    """Send the events of a job until it is finished or `max_seconds` have passed.

    What one read finds is sent in few pieces: each takes its turn among all requests.

    Args:
        read: Reads the job and its entries after the given number; run in a thread.
        cursor: What the client has received.
        may_continue: Whether the client is still authorized; checked before each read.
        poll_seconds: Time between two reads.
        max_seconds: Then the stream ends, and the client resumes with `Last-Event-ID`.
        ping_seconds: A comment is sent after so long without an event.
    """
    sent = time.monotonic()
    until = sent + max_seconds
    while await may_continue():
        try:
            pieces, cursor, is_finished = await run_in_threadpool(_read_pieces, read, cursor)
        except OpsinError:
            return  # Deleted, or the database is away: the client reconnects and gets the error.
        if not pieces and not is_finished and time.monotonic() - sent >= ping_seconds:
            pieces = [KEEPALIVE_COMMENT]
        for piece in pieces:
            yield piece
            sent = time.monotonic()
        if is_finished or time.monotonic() >= until:
            return
        await asyncio.sleep(poll_seconds)


def _read_pieces(
    read: Callable[[int], JobHistory], cursor: StreamCursor
) -> tuple[list[bytes], StreamCursor, bool]:
    """The pending events as pieces of whole events, the cursor after them, and whether that is all.

    Raises:
        OpsinError: The job was deleted, or the database is away.
    """
    history = read(cursor.entry)
    pieces = [bytearray()]
    for position, event in pending_events(history, cursor):
        cursor = position
        text = json.dumps(to_jsonable_python(event.data, inf_nan_mode="null"))
        if len(pieces[-1]) >= PIECE_BYTES:
            pieces.append(bytearray())
        pieces[-1] += format_sse_event(
            data_str=text, event=event.name, id=cursor.id, retry=RETRY_MS
        )
    finished = history.job.state in FINISHED
    return [bytes(piece) for piece in pieces if piece], cursor, finished
