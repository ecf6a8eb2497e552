"""A real SQLite file for every test, and a real PostgreSQL if it and its driver are installed."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from database.engine import open_engine
from database.installation import adopt
from database.jobs.files import JobFiles
from database.jobs.jobs import Jobs
from database.jobs.leases import Leases
from tests.postgresql import empty_database
from tests.tables import make_tables


class Clock:
    """A clock that stands still until it is advanced."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'data' / 'opsin.db'}"
    return empty_database(request.getfixturevalue("postgresql"), "opsin_empty")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a new database with the current tables."""
    url = f"sqlite:///{tmp_path / 'data' / 'opsin.db'}"
    if request.param == "postgresql":
        server: str = request.getfixturevalue("postgresql")
        url = server.rpartition("/")[0] + "/opsin"
    make_tables(url)
    return url


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
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
