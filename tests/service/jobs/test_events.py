import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import JobNotFound
from contracts.jobs import FINISHED, Job, Progress
from database.jobs.jobs import History
from database.jobs.queries import Entry
from service.jobs.events import Told, events_of, follow, last_told, news
from tests.service.parts import NOW, Shelf

STATES = st.sampled_from(["queued", "running", "succeeded", "failed", "cancelled"])


def job(state: str, attempt: int, fraction: float) -> Job:
    started = NOW if attempt else None
    progress = Progress(fraction=fraction)
    return Shelf().put("j", state=state, attempt=attempt, progress=progress, started_at=started)


@given(STATES, st.integers(0, 1000), st.floats(0, 1))
def test_ids_grow_within_a_look(state: str, attempt: int, fraction: float) -> None:
    ids = [event.id for event in events_of(job(state, attempt, fraction))]
    assert ids == sorted(set(ids))
    assert all(i >= 0 for i in ids)


def test_ids_grow_over_a_life_with_a_lost_worker() -> None:
    life = [
        job("queued", 0, 0),
        job("running", 1, 0),
        job("running", 1, 0.999_999),
        job("running", 1, 1),
        job("queued", 1, 1),
        job("running", 2, 0),
        job("running", 2, 1),
        job("succeeded", 2, 1),
    ]
    newest = [events_of(at)[-1].id for at in life]
    assert newest == sorted(set(newest))


@pytest.mark.parametrize("foreign", [None, "", "-1", "abc", "1.5", "9" * 400, "\u00b2"])
def test_a_foreign_id_counts_as_none(foreign: str | None) -> None:
    assert last_told(foreign) == Told()
    assert last_told(Told(4_000_000, 17).id) == Told(4_000_000, 17)
    assert last_told(Told(entries=3).id) == Told(entries=3)


def test_a_stream_ends_even_if_the_job_does_not() -> None:
    waiting = job("queued", 0, 0)

    async def listen() -> int:
        stream = follow(
            lambda after: History(waiting, []), Told(), poll_seconds=0.01, longest_seconds=0.05
        )
        return len([event async for event in stream])

    assert asyncio.run(asyncio.wait_for(listen(), 5)) == 1


def test_a_stream_ends_when_its_job_is_deleted() -> None:
    found = [job("running", 1, 0.5)]

    def look(after: int) -> History:
        if not found:
            raise JobNotFound("There is no job of that id.")
        return History(found.pop(), [])

    async def listen() -> int:
        return len([event async for event in follow(look, Told(), poll_seconds=0.01)])

    assert asyncio.run(asyncio.wait_for(listen(), 5)) == 2


def test_an_end_is_always_told() -> None:
    for state in FINISHED:
        assert events_of(job(state, 0, 0))[-1].data["state"] == state


def test_entries_are_told_once_and_before_the_end() -> None:
    rows = [Entry(n, "metrics", {"epoch": n}) for n in (1, 2)]
    running = news(History(job("running", 1, 0.5), rows[:1]), Told())
    assert [event.name for _, event in running] == ["state", "progress", "metrics"]
    told = last_told(running[-1][0].id)
    again = Entry(3, "artifact", {"name": "preview.png"})
    ended = news(History(job("succeeded", 1, 1), [*rows, again]), told)
    names = [event.name for _, event in ended]
    assert names == ["progress", "metrics", "artifact", "state"]
    ids = [int(standing.id) for standing, _ in running + ended]
    assert ids == sorted(set(ids))
    assert news(History(job("succeeded", 1, 1), [*rows, again]), ended[-1][0]) == []


def test_a_stream_resumes_between_any_two_events() -> None:
    rows = [Entry(n, "metrics", {"epoch": n}) for n in (1, 2, 3)]
    history = History(job("succeeded", 2, 1), rows)
    whole = news(history, Told())
    for at, (standing, _) in enumerate(whole):
        assert news(history, last_told(standing.id)) == whole[at + 1 :]
