"""A real SQLite file for every test, and a real PostgreSQL if it and its driver are installed."""

import contextlib
import getpass
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from database.engine import open_engine
from database.jobs.files import JobFiles
from database.jobs.jobs import Jobs
from database.jobs.leases import Leases
from database.migrations import upgrade
from database.tables import Record


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
    initdb, server = shutil.which("initdb"), shutil.which("postgres")
    if initdb is None and server is not None:
        initdb = str(Path(server).resolve().parent / "initdb")
    if server is None or initdb is None or not Path(initdb).exists():
        pytest.skip("no PostgreSQL server is installed on this machine")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed")
    # PostgreSQL refuses to run as root.
    user = "postgres" if os.getuid() == 0 else getpass.getuser()
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="opsin-postgres-") as folder:
        if os.getuid() == 0:
            shutil.chown(folder, user)
        data = f"{folder}/data"
        options = ["-U", "opsin", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(
            [initdb, "-D", data, *options], check=True, capture_output=True, timeout=60, user=user
        )
        arguments = ["-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"]
        process = subprocess.Popen(
            [server, *arguments], user=user, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            yield _ready(f"postgresql+psycopg://opsin@127.0.0.1:{port}/postgres")
        finally:
            process.terminate()
            process.wait(20)


def _ready(url: str) -> str:
    engine = open_engine(url)
    deadline = time.monotonic() + 20
    while True:
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            engine.dispose()
            return url


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
def jobs(engine: Engine, clock: Clock, files: JobFiles) -> Jobs:
    return Jobs(engine, clock, files)


@pytest.fixture
def leases(engine: Engine, clock: Clock) -> Leases:
    return Leases(engine, clock)
