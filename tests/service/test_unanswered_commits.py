"""What is stored beside a row survives, if the answer to the row's COMMIT is lost."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from redis.asyncio import Redis

from contracts.errors import Unavailable
from contracts.faces.subjects import NewSubject
from contracts.queue.celery import celery_app
from contracts.settings import Settings
from database.datasets import DatasetRows
from database.engine import open_engine
from database.faces.repositories import FaceRepositories
from database.idempotency import IdempotencyKey
from database.installation import adopt
from database.jobs.files import JobFiles
from database.jobs.jobs import Jobs
from database.jobs.leases import Leases
from models.datasets.store import DEFAULT_FRACTIONS, DatasetStore
from models.store.store import Store
from service.datasets.service import Datasets
from service.jobs.queue import JobQueue
from tests.database.faces.test_faces import NET, template
from tests.database.jobs.listing import listed
from tests.postgresql import empty_database
from tests.silent_proxy import SilentProxy
from tests.tables import make_tables
from tests.valkey import RealValkey


def now() -> datetime:
    return datetime.now(UTC)


class Installation:
    """A home whose database is behind a proxy."""

    def __init__(self, home: Path, proxy: SilentProxy) -> None:
        self.proxy = proxy
        self.settings = Settings(_env_file=None, home=home)
        self.engine = open_engine(proxy.url)
        adopt(self.engine, home)
        self.files = JobFiles.of(self.settings)
        self.jobs = Jobs(self.engine, now, self.files)
        self.rows = DatasetRows(self.engine, now)
        self.datasets = Datasets(DatasetStore.of(self.settings), self.rows)

    def before(self, function: Callable[..., Any], passed_on: float | None) -> Callable[..., Any]:
        """Let the next COMMIT from that function on remain without an answer."""

        def call(*args: Any, **options: Any) -> Any:
            self.proxy.cut(b"COMMIT", passed_on=passed_on)
            return function(*args, **options)

        return call

    def post(self, valkey: RealValkey, times: int) -> list[str | Unavailable]:
        """Send an enrollment that often, with one Idempotency-Key; ids or errors."""

        async def all_of_it() -> list[str | Unavailable]:
            client, leases = Redis.from_url(valkey.url), Leases(self.engine, now)
            celery = celery_app(valkey.url)
            queue = JobQueue(
                *(client, celery, self.jobs, leases),
                files=self.files,
                store=Store(self.settings.store_home),
                settings=self.settings,
            )
            answers: list[str | Unavailable] = []
            for _ in range(times):
                try:
                    job = await queue.submit_work(
                        "enrollment",
                        {"subject_id": "sub_1", "images": 1},
                        inputs={"image-0": b"x"},
                        idempotency=("key", "digest"),
                    )
                    answers.append(job.id)
                except Unavailable as error:
                    answers.append(error)
            await queue.stop()
            await client.aclose()
            celery.close()
            return answers

        return asyncio.run(all_of_it())

    def folders(self) -> list[str]:
        return [path.parent.parent.name for path in self.files.root.glob("*/work/image-0")]


@pytest.fixture
def installation(postgresql: str, tmp_path: Path) -> Iterator[Installation]:
    url = empty_database(postgresql, "opsin_unanswered")
    make_tables(url)
    with SilentProxy(url) as proxy:
        installation = Installation(tmp_path, proxy)
        yield installation
        installation.engine.dispose()


def once(monkeypatch: pytest.MonkeyPatch, target: object, name: str, function: Any) -> None:
    """Replace a method for its next call."""
    own = getattr(target, name)

    def call(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(target, name, own)
        return function(*args, **options)

    monkeypatch.setattr(target, name, call)


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_a_job_that_was_made_is_accepted(
    *,
    installation: Installation,
    valkey: RealValkey,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
) -> None:
    """Also if the server commits only after it was asked whether it has."""
    jobs = installation.jobs
    once(monkeypatch, jobs, "create", installation.before(jobs.create, seconds))
    first, second = installation.post(valkey, 2)
    assert first == second
    assert installation.folders() == [first]
    assert valkey.client().llen("faces") == 1


def test_a_job_that_was_not_made_leaves_nothing(
    installation: Installation, valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = installation.jobs
    once(monkeypatch, jobs, "create", installation.before(jobs.create, None))
    (answer,) = installation.post(valkey, 1)
    assert isinstance(answer, Unavailable)
    assert listed(jobs).items == []
    assert installation.folders() == []


@pytest.mark.parametrize("seconds", [0.0, None])
def test_the_input_of_a_job_stays_while_nobody_can_tell_whether_it_was_made(
    *,
    installation: Installation,
    valkey: RealValkey,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float | None,
) -> None:
    jobs = installation.jobs
    once(monkeypatch, jobs, "create", installation.before(jobs.create, seconds))
    once(monkeypatch, jobs, "_committed", Mock(side_effect=Unavailable("away")))
    (answer,) = installation.post(valkey, 1)
    assert isinstance(answer, Unavailable)
    assert seconds is None or installation.proxy.answered.wait(20)
    made = [job.id for job in listed(jobs).items]
    assert len(made) == (0 if seconds is None else 1)
    assert len(installation.folders()) == 1
    monkeypatch.setattr("database.jobs.files._age", lambda _: 3601.0)
    jobs.remove_orphans()
    assert installation.folders() == made
    if made:
        assert installation.post(valkey, 1) == made


def post_dataset(datasets: Datasets) -> dict[str, Any]:
    key = IdempotencyKey("key", "dataset", "digest")
    return datasets.create(
        "pets", None, DEFAULT_FRACTIONS, progress=lambda *_: None, idempotency=key
    )


@pytest.mark.parametrize("seconds", [0.0, None])
def test_a_dataset_is_there_for_a_repeated_request(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, seconds: float | None
) -> None:
    datasets, rows = installation.datasets, installation.rows
    once(monkeypatch, rows, "put", installation.before(rows.put, seconds))
    with pytest.raises(Unavailable):
        post_dataset(datasets)
    assert seconds is None or installation.proxy.answered.wait(20)
    made = post_dataset(datasets)
    assert post_dataset(datasets) == made
    assert datasets.store.ids() == [made["id"]]
    assert rows.get(made["id"]).name == "pets"


def test_a_dataset_that_another_request_has_answered_with_stays(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It found the folder of the first one, whose own write then fails."""
    datasets = installation.datasets

    def overtaken(*_: Any, **__: Any) -> None:
        datasets._write_missing_rows(*datasets.store.ids())
        raise Unavailable("locked")

    once(monkeypatch, installation.rows, "put", overtaken)
    with pytest.raises(Unavailable):
        post_dataset(datasets)
    made = post_dataset(datasets)
    assert datasets.store.ids() == [made["id"]]
    assert installation.rows.get(made["id"]).name == "pets"


def test_frames_of_templates_that_were_stored_stay(installation: Installation) -> None:
    faces = FaceRepositories.of(installation.settings, installation.engine, now)
    ada = str(faces.subjects.create(NewSubject(name="Ada", keep_frames=True))["id"])
    with pytest.raises(Unavailable):
        faces.templates.add(
            ada,
            [template(b"frame")],
            embedder=NET,
            final_check=lambda: installation.proxy.cut(b"COMMIT", passed_on=0.0),
        )
    assert installation.proxy.answered.wait(20)
    (frame,) = faces.frames.ids_of_subject(ada)
    assert faces.frames.get(ada, frame).content == b"frame"


@pytest.mark.parametrize("key", [None, IdempotencyKey("key", "dataset", "digest")])
def test_a_dataset_whose_commit_meets_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: IdempotencyKey | None
) -> None:
    """SQLite notices a full disk at COMMIT. The folder would keep the disk full."""
    settings = Settings(_env_file=None, home=tmp_path)
    make_tables(settings.database)
    engine = open_engine(settings.database)
    adopt(engine, tmp_path)
    rows = DatasetRows(engine, now)
    datasets, put = Datasets(DatasetStore.of(settings), rows), rows.put

    def full(_connection: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    def put_on_a_full_disk(*args: Any, **options: Any) -> Any:
        once(monkeypatch, engine.dialect, "do_commit", full)
        return put(*args, **options)

    once(monkeypatch, rows, "put", put_on_a_full_disk)
    monkeypatch.setattr(rows, "hide", Mock(side_effect=Unavailable("The disk is full.")))
    with pytest.raises(Unavailable, match="disk") as refused:
        datasets.create("x", None, DEFAULT_FRACTIONS, progress=lambda *_: None, idempotency=key)
    assert not refused.value.is_outcome_unknown
    assert datasets.store.ids() == []
    engine.dispose()
