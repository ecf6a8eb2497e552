"""A real SQLite file for every test, and a real PostgreSQL if it and its driver are installed."""

import contextlib
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from database.engine import open_engine
from database.installation import adopt
from database.jobs.files import JobFiles
from database.jobs.jobs import Jobs
from database.jobs.leases import Leases
from database.migrations import upgrade
from database.tables import Record
from tests.postgresql import NoPostgresqlError, running_postgresql


class Clock:
    """A clock that stands still until it is advanced."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The address of a PostgreSQL server on a free port of the loopback address."""
    with contextlib.ExitStack() as stack:
        try:
            url = stack.enter_context(running_postgresql())
        except NoPostgresqlError as error:
            pytest.skip(str(error))
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'data' / 'opsin.db'}"
        return
    address: str = request.getfixturevalue("postgresql")
    yield address
    engine = open_engine(address)
    with engine.begin() as connection:
        Record.metadata.drop_all(connection)
        connection.execute(text("DROP TABLE IF EXISTS alembic_version"))
    engine.dispose()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    upgrade(url)
    engine = open_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files(tmp_path: Path) -> JobFiles:
    return JobFiles(tmp_path / "jobs")


@pytest.fixture
def jobs(engine: Engine, clock: Clock, files: JobFiles, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """Its ids grow: they decide the order of jobs that are created at one time of the clock."""
    numbers = itertools.count()
    monkeypatch.setattr("database.jobs.jobs.new_job_id", lambda: f"job_{next(numbers):024}")
    adopt(engine, files.root.parent)
    return Jobs(engine, clock, files)


@pytest.fixture
def leases(engine: Engine, clock: Clock) -> Leases:
    return Leases(engine, clock)
