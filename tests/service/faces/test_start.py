"""What erasures have left is gone before the API answers; a home may be copied back by hand."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contracts.errors import JobNotFound
from contracts.faces.erased_ids import FILE
from contracts.faces.subjects import NewSubject
from contracts.inference.manifest import CHAMPION, Provenance
from contracts.settings import Settings
from database.engine import open_engine
from database.faces.repositories import FaceRepositories
from database.jobs.jobs import Jobs
from database.jobs.leases import Leases
from models.store.store import Store
from service import lifespan
from service.dependencies import Services
from service.lifespan import open_services
from service.periodic import PeriodicTask
from tests.cli.backup.furnished import now
from tests.models.drafts import DRAFT, write_files
from tests.tables import make_tables
from tests.valkey import RealValkey


@pytest.fixture
def settings(tmp_path: Path, valkey: RealValkey) -> Settings:
    settings = Settings(_env_file=None, home=tmp_path, redis_url=valkey.url)
    make_tables(settings.database)
    return settings


def bring_back(settings: Settings) -> tuple[str, str]:
    """An erased person and a training on them, with its version, as in copied files."""
    engine = open_engine(settings.database)
    subject = str(
        FaceRepositories.of(settings, engine, now).subjects.create(NewSubject(name="Ada"))["id"]
    )
    request = {"model": "door", "subjects": [subject]}
    job = Jobs(engine, now).create("training", request, limit=9, scopes=("train", "faces")).job.id
    leases = Leases(engine, now)
    lease = leases.claim(job, "worker", 60)
    assert lease is not None
    leases.succeed(lease, {"version": 1})
    engine.dispose()
    store = Store(settings.store_home)
    with store.staging() as folder:
        write_files(folder)
        draft = DRAFT.model_copy(update={"provenance": Provenance(spec=request)})
        store.promote("door", store.publish("door", folder, draft), CHAMPION)
    (settings.home / FILE).write_text(f"{subject}\n")
    return subject, job


def at_start(settings: Settings, look: Callable[[Services], None]) -> None:
    async def run() -> None:
        async with open_services(settings) as services:
            await asyncio.to_thread(look, services)

    asyncio.run(run())


def test_nothing_is_left_of_an_erased_person_when_the_api_begins_to_answer(
    settings: Settings,
) -> None:
    subject, job = bring_back(settings)

    def look(services: Services) -> None:
        assert services.store.numbers("door") == []
        assert services.store.aliases("door") == {}
        assert services.faces.erasures.existing_among([subject]) == []
        with pytest.raises(JobNotFound):
            services.jobs.get(job)

    at_start(settings, look)


@pytest.mark.parametrize("fault", ["slow", "failing"])
def test_a_start_does_not_wait_for_ever_and_the_version_is_refused_meanwhile(
    settings: Settings, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring_back(settings)

    async def resume(_: object) -> None:
        if fault == "failing":
            raise OSError("the disk is gone")
        await asyncio.sleep(60)

    monkeypatch.setattr(lifespan, "resume", resume)
    monkeypatch.setattr(lifespan, "_START_SECONDS", 0.2)

    def look(services: Services) -> None:
        assert services.store.numbers("door") == [1]
        info = next(one for one in services.workers.models() if one.name == "door")
        assert info.versions == []

    began = time.monotonic()
    at_start(settings, look)
    assert time.monotonic() - began < 30


def test_what_runs_every_ten_minutes_runs_soon_after_a_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a service that is restarted more often, nobody would be erased for their age."""
    pauses: dict[str, float] = {}
    start = PeriodicTask.start

    def note(task: PeriodicTask) -> None:
        pauses[task._name] = task._first
        start(task)

    monkeypatch.setattr(PeriodicTask, "start", note)
    at_start(settings, lambda _: None)
    assert pauses.pop("datasets") > 60, "that has run by then"
    assert {"retention", "audit", "frames", "erasures", "job-purge", "job-files"} <= pauses.keys()
    assert pauses["erasures"] == 0
    assert max(pauses.values()) <= 60
