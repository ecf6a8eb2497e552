"""A real PostgreSQL for tests, if this machine has one."""

import contextlib
import getpass
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import create_engine, text

from database.engine import open_engine
from tests.ports import free_port


class NoPostgresqlError(Exception):
    """This machine has no server or no driver; the message says which."""


@contextlib.contextmanager
def running_postgresql() -> Iterator[str]:
    """The address of a new PostgreSQL server on a free port of the loopback address.

    Raises:
        NoPostgresqlError: None is installed.
    """
    initdb, server = shutil.which("initdb"), shutil.which("postgres")
    if initdb is None and server is not None:
        initdb = str(Path(server).resolve().parent / "initdb")
    if server is None or initdb is None or not Path(initdb).exists():
        raise NoPostgresqlError("no PostgreSQL server is installed on this machine")
    if importlib.util.find_spec("psycopg") is None:
        raise NoPostgresqlError("psycopg is not installed")
    # PostgreSQL refuses to run as root.
    user = "postgres" if os.getuid() == 0 else getpass.getuser()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="opsin-postgres-") as folder:
        if os.getuid() == 0:
            shutil.chown(folder, user)
        data = f"{folder}/data"
        options = ["-U", "opsin", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(
            [initdb, "-D", data, *options], check=True, capture_output=True, timeout=120, user=user
        )
        arguments = ["-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"]
        process = subprocess.Popen(
            [server, *arguments], user=user, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            yield _ready(f"postgresql+psycopg://opsin@127.0.0.1:{port}/postgres")
        finally:
            process.terminate()
            process.wait(60)


@contextlib.contextmanager
def database_settings(name: str, *, postgresql: bool) -> Iterator[dict[str, str]]:
    """Settings that name a database of a new PostgreSQL server; none for SQLite."""
    if not postgresql:
        yield {}
        return
    with running_postgresql() as url:
        yield {"OPSIN_DATABASE_URL": new_database(url, name)}


def new_database(url: str, name: str) -> str:
    """Create a database on the server of `url`; returns its address."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    engine.dispose()
    return url.rpartition("/")[0] + f"/{name}"


def _ready(url: str) -> str:
    engine = open_engine(url)
    deadline = time.monotonic() + 60
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
