import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import JobNotFound
from contracts.jobs import FINISHED, Job, Progress
from database.jobs.jobs import JobHistory
from database.jobs.queries import JobEntry
from service.jobs.events import StreamCursor, events_of, follow, parse_last_event_id, pending_events
from tests.service.parts import NOW, FakeJobs

STATES = st.sampled_from(["queued", "running", "succeeded", "failed", "cancelled"])


async def always() -> bool:
    return True


def job(state: str, attempt: int, fraction: float) -> Job:
    started = NOW if attempt else None
    progress = Progress(fraction=fraction)
    return FakeJobs().put("j", state=state, attempt=attempt, progress=progress, started_at=started)


@given(STATES, st.integers(0, 1000), st.floats(0, 1))
def test_ids_grow_within_one_state(state: str, attempt: int, fraction: float) -> None:
    ids = [event.id for event in events_of(job(state, attempt, fraction))]
    assert ids == sorted(set(ids))
    assert all(i >= 0 for i in ids)


def test_ids_grow_over_all_states_of_a_job_with_a_lost_worker() -> None:
    states = [
        job("queued", 0, 0),
        job("running", 1, 0),
        job("running", 1, 0.999_999),
        job("running", 1, 1),
        job("queued", 1, 1),
        job("running", 2, 0),
        job("running", 2, 1),
        job("succeeded", 2, 1),
    ]
    newest = [events_of(state)[-1].id for state in states]
    assert newest == sorted(set(newest))


@pytest.mark.parametrize("foreign", [None, "", "-1", "abc", "1.5", "9" * 400, "\u00b2"])
def test_a_foreign_id_counts_as_none(foreign: str | None) -> None:
    assert parse_last_event_id(foreign) == StreamCursor()
    assert parse_last_event_id(StreamCursor(4_000_000, 17).id) == StreamCursor(4_000_000, 17)
    assert parse_last_event_id(StreamCursor(entry=3).id) == StreamCursor(entry=3)


def test_a_stream_ends_before_an_unfinished_job() -> None:
    waiting = job("queued", 0, 0)

    async def listen() -> int:
        stream = follow(
            lambda after: JobHistory(waiting, []),
            StreamCursor(),
            may_continue=always,
            poll_seconds=0.01,
            max_seconds=0.05,
        )
        return b"".join([piece async for piece in stream]).count(b"id: ")

    assert asyncio.run(asyncio.wait_for(listen(), 5)) == 1


def test_a_stream_ends_when_its_job_is_deleted() -> None:
    found = [job("running", 1, 0.5)]

    def read(after: int) -> JobHistory:
        if not found:
            raise JobNotFound("There is no job of that id.")
        return JobHistory(found.pop(), [])

    async def listen() -> int:
        stream = follow(read, StreamCursor(), may_continue=always, poll_seconds=0.01)
        return b"".join([piece async for piece in stream]).count(b"id: ")

    assert asyncio.run(asyncio.wait_for(listen(), 5)) == 2


def test_a_replay_is_sent_in_few_pieces_of_whole_events() -> None:
    rows = [JobEntry(n, "metrics", {"epoch": n, "loss": float("nan")}) for n in range(1, 2001)]
    history = JobHistory(job("succeeded", 1, 1), rows)

    async def listen() -> list[bytes]:
        stream = follow(lambda after: history, StreamCursor(), may_continue=always)
        return [piece async for piece in stream]

    pieces = asyncio.run(asyncio.wait_for(listen(), 20))
    assert len(pieces) < 5
    assert all(piece.endswith(b"\n\n") and len(piece) < 70_000 for piece in pieces)
    events = b"".join(pieces).split(b"\n\n")
    assert len(events) == 2003 + 1
    metrics = b'event: metrics\ndata: {"epoch": 1, "loss": null}\nid: %d\nretry: 1000'
    assert events[2] == metrics % int(pending_events(history, StreamCursor())[2][0].id)


def test_a_silent_stream_is_pinged() -> None:
    async def listen() -> list[bytes]:
        stream = follow(
            lambda after: JobHistory(job("queued", 0, 0), []),
            StreamCursor(),
            may_continue=always,
            poll_seconds=0.01,
            max_seconds=0.2,
            ping_seconds=0.05,
        )
        return [piece async for piece in stream]

    pieces = asyncio.run(asyncio.wait_for(listen(), 5))
    assert 1 <= pieces.count(b": ping\n\n") == len(pieces) - 1 <= 4


def test_the_end_is_always_an_event() -> None:
    for state in FINISHED:
        assert events_of(job(state, 0, 0))[-1].data["state"] == state


def test_entries_are_sent_once_and_before_the_end() -> None:
    rows = [JobEntry(n, "metrics", {"epoch": n}) for n in (1, 2)]
    running = pending_events(JobHistory(job("running", 1, 0.5), rows[:1]), StreamCursor())
    assert [event.name for _, event in running] == ["state", "progress", "metrics"]
    cursor = parse_last_event_id(running[-1][0].id)
    again = JobEntry(3, "artifact", {"name": "preview.png"})
    ended = pending_events(JobHistory(job("succeeded", 1, 1), [*rows, again]), cursor)
    names = [event.name for _, event in ended]
    assert names == ["progress", "metrics", "artifact", "state"]
    ids = [int(position.id) for position, _ in running + ended]
    assert ids == sorted(set(ids))
    assert pending_events(JobHistory(job("succeeded", 1, 1), [*rows, again]), ended[-1][0]) == []


def test_a_stream_resumes_between_any_two_events() -> None:
    rows = [JobEntry(n, "metrics", {"epoch": n}) for n in (1, 2, 3)]
    history = JobHistory(job("succeeded", 2, 1), rows)
    whole = pending_events(history, StreamCursor())
    for index, (position, _) in enumerate(whole):
        assert pending_events(history, parse_last_event_id(position.id)) == whole[index + 1 :]
