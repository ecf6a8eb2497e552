"""A real PostgreSQL for tests, if this machine has one."""

import contextlib
import getpass
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import make_url, text

from database.engine import open_engine
from tests.ports import free_port

if TYPE_CHECKING:
    import psycopg


class NoPostgresqlError(Exception):
    """This machine has no server or no driver; the message says which."""


@contextlib.contextmanager
def running_postgresql(*options: str) -> Iterator[str]:
    """The address of a new PostgreSQL server on a free port of the loopback address.

    Args:
        options: Further options of the server.

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
        users = ["-U", "opsin", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(
            [initdb, "-D", data, *users], check=True, capture_output=True, timeout=120, user=user
        )
        arguments = ["-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F", *options]
        process = subprocess.Popen(
            [server, *arguments], user=user, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            yield _ready(f"postgresql+psycopg://opsin@127.0.0.1:{port}/postgres")
        finally:
            process.send_signal(signal.SIGINT)  # which waits for nobody who is connected
            process.wait(60)


@contextlib.contextmanager
def running_standby(url: str, *options: str, slot: str | None = None) -> Iterator[str]:
    """A standby of the server of `url`, which reports its queries to it; its address.

    Args:
        options: As those of the server.
        slot: A replication slot to create for it, which stays when it has gone.

    Raises:
        NoPostgresqlError: `pg_basebackup` is not installed.
    """
    server = Path(shutil.which("postgres") or "").resolve()
    if not (copy := server.parent / "pg_basebackup").exists():
        raise NoPostgresqlError("pg_basebackup is not installed on this machine")
    user = "postgres" if os.getuid() == 0 else getpass.getuser()
    address, port = make_url(url), free_port()
    with tempfile.TemporaryDirectory(prefix="opsin-standby-") as folder:
        if os.getuid() == 0:
            shutil.chown(folder, user)
        data = f"{folder}/data"
        source = ["-h", "127.0.0.1", "-p", str(address.port), "-U", "opsin"]
        source += ["-C", "-S", slot] if slot else []
        subprocess.run(
            [copy, *source, "-D", data, "-R", "-c", "fast", "--no-sync"],
            check=True,
            capture_output=True,
            timeout=120,
            user=user,
        )
        arguments = ["-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"]
        feedback = ["-c", "hot_standby_feedback=on", "-c", "wal_receiver_status_interval=1"]
        process = subprocess.Popen(
            [server, *arguments, *feedback, *options],
            user=user,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            yield _ready(address.set(port=port).render_as_string(hide_password=False))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


@contextlib.contextmanager
def database_settings(name: str, *, postgresql: bool) -> Iterator[dict[str, str]]:
    """Settings that name a database of a new PostgreSQL server; none for SQLite."""
    if not postgresql:
        yield {}
        return
    with running_postgresql() as url:
        yield {"OPSIN_DATABASE_URL": new_database(url, name)}


def new_database(url: str, name: str, *, template: str = "template1") -> str:
    """Create a database on the server of `url`, by copying another; returns its address."""
    with connected(url) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
    return url.rpartition("/")[0] + f"/{name}"


def remove_database(url: str) -> None:
    """Remove a database, if it is there, whoever is connected to it."""
    server, _, name = url.rpartition("/")
    with connected(f"{server}/postgres") as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


def empty_database(url: str, name: str) -> str:
    """The address of a database without tables on the server of `url`, which may be there."""
    address = url.rpartition("/")[0] + f"/{name}"
    with connected(url) as connection:
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
        if known.fetchone() is None:
            return new_database(url, name)
    with connected(address) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return address


@contextlib.contextmanager
def connected(url: str) -> Iterator["psycopg.Connection"]:
    """A connection each of whose statements is a transaction."""
    import psycopg  # not installed without PostgreSQL

    plain = url.replace("+psycopg", "")
    with contextlib.closing(psycopg.connect(plain, autocommit=True)) as connection:
        yield connection


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
