"""Databases with the current tables, which take a twentieth of the time of migrating one."""

import sqlite3
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import make_url

from cli.startup import migrate
from contracts.settings import Settings
from database.installation import _new_id
from database.migrations import newest, upgrade
from tests.postgresql import connected, new_database, remove_database

if TYPE_CHECKING:
    import psycopg

_TEMPLATE = "opsin_tables"
_STRUCTURE = """
SELECT string_agg(line, ';' ORDER BY line) FROM (
    SELECT concat_ws(' ', relname, attname, atttypid::regtype, attnotnull, atthasdef)
    FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
    WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT concat_ws(' ', conrelid::regclass, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
) AS structure (line)
"""
_DELETIONS = """
SELECT string_agg(format('DELETE FROM %I', tablename), ';') FROM pg_tables
WHERE schemaname = 'public'
"""
_RESTARTS = """
SELECT setval(oid::regclass, 1, false) FROM pg_class
WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace
"""


def make_tables(url: str) -> None:
    """Make what `database.migrations.upgrade` makes of a new database, with an id of its own.

    Args:
        url: Of a new SQLite file, or of a database of PostgreSQL, whatever it holds: if it has the
            current tables, only their rows are deleted.
    """
    if url.startswith("sqlite"):
        _copy_file(Path(make_url(url).database or ""))
        return
    server, _, name = url.rpartition("/")
    server += "/postgres"
    structure = _template_structure(server)
    with connected(server) as other:
        known = other.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
    if known:
        with connected(url) as connection:
            if _structure(connection) == structure:
                _delete_rows(connection)
                return
        remove_database(url)
    new_database(server, name, template=_TEMPLATE)
    with connected(url) as connection:
        _delete_rows(connection)


def make_home(settings: Settings) -> None:
    """Make what `cli.startup.migrate` makes: a new database and the home that belongs to it."""
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    make_tables(settings.database)
    migrate(settings, is_start=True)


def _copy_file(file: Path) -> None:
    assert not file.exists()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(_file())
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("UPDATE installation SET id = ?", [_new_id()])
        connection.commit()


@cache
def _file() -> bytes:
    with tempfile.TemporaryDirectory(prefix="opsin-test-") as folder:
        file = Path(folder, "opsin.db")
        upgrade(f"sqlite:///{file}")
        return file.read_bytes()


@cache
def _template_structure(server: str) -> str:
    """Make the database that others are copied from, to which nobody connects later."""
    url = new_database(server, _TEMPLATE)
    upgrade(url)
    with connected(url) as connection:
        return _structure(connection)


def _structure(connection: "psycopg.Connection") -> str:
    (found,) = connection.execute(_STRUCTURE).fetchone() or ("",)
    return str(found)


def _delete_rows(connection: "psycopg.Connection") -> None:
    """Delete all rows but those that each new database has."""
    (deletions,) = connection.execute(_DELETIONS).fetchone() or ("",)
    connection.execute("SET session_replication_role = replica; SET lock_timeout = '30s'")
    connection.execute(deletions)
    connection.execute(_RESTARTS)
    connection.execute("INSERT INTO alembic_version VALUES (%s)", [newest()])
    connection.execute("INSERT INTO installation VALUES (1, %s)", [_new_id()])
