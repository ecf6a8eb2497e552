"""However many erasures there are, PostgreSQL's tables are rewritten one at a time, with rests."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from redis.asyncio import Redis
from sqlalchemy import event

from contracts.faces.subjects import NewSubject
from contracts.settings import Settings
from database.engine import open_engine
from database.installation import adopt
from database.jobs.files import JobFiles
from service.dependencies import Services
from service.faces.context import FaceServices, open_face_services
from service.faces.privacy.erasure import erase, resume
from tests.service.parts import FakeServices
from tests.tables import make_tables
from tests.valkey import RealValkey

SETTINGS = Settings(_env_file=None)


@pytest.fixture
def processes(
    tmp_path: Path, valkey: RealValkey, postgresql: str
) -> Iterator[tuple[FakeServices, FakeServices]]:
    """Two API processes of one home and one database."""
    url = postgresql.rpartition("/")[0] + "/opsin"
    make_tables(url)
    parts = [FakeServices(faces=_faces(tmp_path, url, valkey.url)) for _ in range(2)]
    adopt(parts[0].faces.engine, tmp_path)
    yield parts[0], parts[1]
    for one in parts:
        one.faces.engine.dispose()


def _faces(home: Path, url: str, redis_url: str) -> FaceServices:
    settings = Settings(_env_file=None, home=home, database_url=url, redis_url=redis_url)
    engine, client = open_engine(url), Redis.from_url(redis_url)
    now = partial(datetime.now, UTC)
    return open_face_services(settings, engine, client, JobFiles.of(settings), now)


def rewrites_of(*parts: FakeServices) -> list[str]:
    """The rewrites that these processes begin from now on."""
    begun: list[str] = []
    for one in parts:

        @event.listens_for(one.faces.engine, "before_cursor_execute")
        def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            if statement.startswith("VACUUM (FULL)"):
                begun.append(statement)

    return begun


def add(part: FakeServices, count: int) -> list[str]:
    create = part.faces.subjects.create
    return [str(create(NewSubject(name=f"Ada {number}"))["id"]) for number in range(count)]


def outcomes(part: FakeServices, ids: list[str]) -> list[tuple[str, str | None]]:
    entries = [part.faces.events.list(subject_id=one).items[0] for one in ids]
    return [(entry.outcome, entry.reason) for entry in entries]


def test_erasures_that_wait_share_a_rewrite_across_processes(
    processes: tuple[FakeServices, FakeServices],
) -> None:
    first, second = processes
    ids, begun = add(first, 16), rewrites_of(*processes)

    async def erase_all() -> None:
        async with first.open_services(SETTINGS) as one, second.open_services(SETTINGS) as two:
            halves = [(one, each) for each in ids[::2]] + [(two, each) for each in ids[1::2]]
            await asyncio.gather(*(erase(services, each) for services, each in halves))

    asyncio.run(erase_all())
    assert outcomes(first, ids) == [("erased", None)] * len(ids)
    assert 1 <= len(begun) <= 6


def test_an_erasure_whose_turn_does_not_come_is_ended_by_the_periodic_run(
    processes: tuple[FakeServices, FakeServices], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = processes
    (ada,) = add(first, 1)

    async def work(services: Services) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("service.faces.context._REWRITE_SECONDS", 0.3)
            patch.setattr("service.faces.context.rewrite_for_erasures", lambda _: 0.1)
            assert (await erase(services, ada)).erased.templates == 0
        assert outcomes(first, [ada]) == [("erasing", None)]
        await resume(services)

    async def run() -> None:
        async with first.open_services(SETTINGS) as services:
            await work(services)

    asyncio.run(run())
    assert outcomes(first, [ada]) == [("erased", None)]
