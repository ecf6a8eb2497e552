"""The database of a backup: SQLite by its online backup, PostgreSQL by its own tools."""

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url, text
from sqlalchemy.engine import URL

from cli.backup.contents import DATABASES, DatabaseKind
from cli.backup.own_tables import found, own_entries, selection
from cli.backup.room import drop_vectors
from cli.output import CommandError
from contracts.errors import OpsinError
from contracts.settings import Settings
from database.engine import open_engine, reading
from database.migrations import current

_TOOL_SECONDS = 6 * 3600.0
_OTHER_SESSIONS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
AND application_name = current_setting('application_name')
"""


def kind_of(settings: Settings) -> DatabaseKind:
    """The kind of database that the settings name."""
    return "sqlite" if make_url(settings.database).get_backend_name() == "sqlite" else "postgresql"


def sqlite_path(settings: Settings) -> Path:
    """The path of the SQLite file.

    Raises:
        CommandError: The URL names no file.
    """
    name = make_url(settings.database).database
    if not name:
        raise CommandError("OPSIN_DATABASE_URL must name a file: sqlite:////path/opsin.db")
    return Path(name).absolute()


def dump(settings: Settings, into: Path) -> DatabaseKind | None:
    """Write a consistent copy while other processes write; of PostgreSQL, only our tables.

    Args:
        into: An empty folder.

    Returns:
        Its kind; None if there is no database yet.

    Raises:
        CommandError: It cannot be copied.
        Unavailable: PostgreSQL does not answer.
    """
    kind = kind_of(settings)
    if kind == "sqlite":
        return _dump_sqlite(sqlite_path(settings), into / DATABASES[kind])
    options = [*selection(settings), "--format=custom", "--no-owner", "--no-privileges"]
    _run("pg_dump", settings, *options, f"--file={into / DATABASES[kind]}")
    return kind


def _dump_sqlite(source: Path, target: Path) -> DatabaseKind | None:
    if not source.exists():
        return None
    try:
        with (
            closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=30)) as live,
            closing(sqlite3.connect(target)) as copy,
        ):
            # In one step: with our journal mode this blocks no writer, and no writer makes it
            # start over.
            live.backup(copy, pages=-1)
            # One file, without a separate journal.
            copy.execute("PRAGMA journal_mode = DELETE")
            _require_sound(copy)
    except sqlite3.Error as error:
        raise CommandError(f"The database cannot be copied: {error}.") from None
    return "sqlite"


def staged(folder: Path, kind: DatabaseKind, revision: str | None) -> Path:
    """The copy in the `database` folder of an unpacked backup, after checking it.

    Args:
        revision: Of its tables, as the header says.

    Raises:
        CommandError: It is missing or damaged.
    """
    path = folder / DATABASES[kind]
    if not path.is_file():
        raise CommandError("The backup's database is missing. Nothing was restored.")
    if kind == "sqlite":
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as copy:
                _require_sound(copy)
                found = _revision(copy)
        except sqlite3.Error as error:
            raise CommandError(f"The backup's database is damaged: {error}.") from None
        if found != revision:
            raise CommandError(
                "The backup's database is not of the release that the backup names: it was "
                "upgraded while the backup was taken, or changed. Nothing was restored."
            )
    return path


def require_unused(settings: Settings) -> None:
    """Check that no Opsin is connected to the database, whatever its home and machine.

    Raises:
        CommandError: One is, or the database does not answer.
    """
    is_file = kind_of(settings) == "sqlite"
    if _is_open(settings) if is_file else _has_other_sessions(settings):
        raise CommandError(
            "An Opsin is connected to the database that OPSIN_DATABASE_URL names. Stop its API and "
            "workers first; if they belong to another home, name another database. PostgreSQL may "
            "take hours to notice that a machine is gone: pg_terminate_backend() ends its sessions."
        )


def _is_open(settings: Settings) -> bool:
    """Whether a process has the SQLite file open; false if it is missing or damaged.

    Within the home it is left alone: the home's lock says who uses it.
    """
    path = sqlite_path(settings)
    if path.is_relative_to(settings.home.absolute()):
        return False
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=1)) as database:
            # With write-ahead logging, each open connection keeps a lock that excludes this one.
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute("BEGIN EXCLUSIVE")
            database.execute("ROLLBACK")
    except sqlite3.Error as error:
        return error.sqlite_errorcode == sqlite3.SQLITE_BUSY
    return False


def _has_other_sessions(settings: Settings) -> bool:
    """Whether others are connected to PostgreSQL as this process is, under the same name."""
    engine = open_engine(settings.database)
    try:
        with reading(engine) as session:
            return bool(session.scalar(text(_OTHER_SESSIONS)))
    except OpsinError as error:
        raise CommandError(error.detail) from None
    finally:
        engine.dispose()


def load_postgresql(settings: Settings, path: Path) -> None:
    """Replace our tables in the database by those of a backup, all or none.

    Raises:
        CommandError: It failed; the tables have not changed, but the index of faces, which the
            next search fills again.
        Unavailable: The database does not answer.
    """
    listing = _run("pg_restore", None, "--list", "--verbose", str(path))
    entries = path.with_name("entries.list")
    entries.write_text("".join(f"{n};\n" for n in own_entries(listing, found(settings)[0])))
    # Where there are no tables of ours, those with the same names are of another application.
    clean = [] if current(settings.database) is None else ["--clean", "--if-exists"]
    if clean:
        drop_vectors(settings)
    options = [*clean, "--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error"]
    _run("pg_restore", settings, *options, f"--use-list={entries}", str(path))


def _require_sound(database: sqlite3.Connection) -> None:
    (result,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if result != "ok":
        raise sqlite3.DatabaseError(str(result))


def _revision(database: sqlite3.Connection) -> str | None:
    tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'"
    if not database.execute(tables).fetchone()[0]:
        return None
    row = database.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def _tool_arguments(url: URL) -> tuple[str, dict[str, str]]:
    """A database URL as PostgreSQL's tools take it: an option, and environment variables.

    They connect exactly as the service does, including a socket's folder, several hosts, and above
    all `sslmode`. Parameters are passed by variables where possible, since other users can read a
    command line.
    """
    from psycopg import pq  # not installed without PostgreSQL
    from psycopg.conninfo import make_conninfo

    from database.postgresql import KEEPALIVES

    parameters = {**KEEPALIVES, **url.get_dialect()().create_connect_args(url)[1]}
    parameters.setdefault("dbname", "postgres")
    plain, variables = {}, {}
    for known in pq.Conninfo.get_defaults():
        keyword, variable = known.keyword.decode(), (known.envvar or b"").decode()
        if keyword not in parameters:
            continue
        if variable and keyword != "dbname":
            variables[variable] = str(parameters[keyword])
        else:
            plain[keyword] = str(parameters[keyword])
    return f"--dbname={make_conninfo('', **plain)}", variables


def _run(tool: str, settings: Settings | None, *options: str) -> str:
    """Run one of PostgreSQL's tools; the password is passed by the environment only.

    Args:
        settings: With the address of the database, if it is to be connected to.

    Returns:
        What it prints.
    """
    program = shutil.which(tool)
    if program is None:
        raise CommandError(
            f"The database is PostgreSQL and {tool} is not on this machine. Install PostgreSQL's "
            "client tools of the server's version, e.g. the package postgresql-client."
        )
    command, env = [program, *options], dict(os.environ)
    if settings is not None:
        name, variables = _tool_arguments(make_url(settings.database))
        command[1:1] = [name, "--no-password"]
        env |= variables
    try:
        # Its messages may be in any character set.
        done = subprocess.run(  # noqa: S603  a known tool, options of our own
            command,
            env=env,
            check=True,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TOOL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise CommandError(f"{tool} did not end within {_TOOL_SECONDS / 3600:g} hours.") from None
    except subprocess.CalledProcessError as failed:
        raise CommandError(f"{tool} failed: {_reason(failed.stderr or '')}") from None
    return done.stdout


def _reason(output: str) -> str:
    """The line that says what went wrong, and its detail; the last ones repeat the command."""
    lines = output.strip().splitlines() or ["no reason given"]
    reason = next((line for line in lines if "error: " in line), lines[-1])
    detail = next((line for line in lines if line.startswith("DETAIL: ")), "")
    return f"{reason} {detail}".rstrip()
