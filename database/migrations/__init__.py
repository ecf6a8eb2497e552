"""Upgrades a database to the current tables with Alembic, without an alembic.ini.

Alembic is imported only for an upgrade: it takes 10 MB of memory, and there is seldom one.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, make_url, text

from contracts.errors import Conflict
from database.engine import advisory_lock, allow_statements, open_engine, reading, use_wal, writing
from database.installation import prepare_table

if TYPE_CHECKING:
    from alembic.config import Config

_LOCK = 0x0951_0001  # a number that no other advisory lock uses
_LIMITS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
_STATEMENT_SECONDS = 600


def upgrade(url: str) -> None:
    """Create the tables or upgrade them; nothing happens if they are up to date.

    Processes that start together take turns, and the later ones find the work done. Everything
    happens in one transaction, so a process that dies leaves the old tables.

    Raises:
        Conflict: Its tables are of a later release.
        Unavailable: The database does not answer.
        ValueError: `url` is not the address of a supported database.
    """
    engine = open_engine(url)
    try:
        if engine.dialect.name == "sqlite":
            use_wal(engine)
        with writing(engine) as session:
            connection = session.connection()
            if engine.dialect.name == "postgresql":
                # A step may take long, and so may waiting for that of another process.
                for limit in _LIMITS:
                    connection.execute(text(f"SET LOCAL {limit} = '{_STATEMENT_SECONDS}s'"))
                allow_statements(connection, _STATEMENT_SECONDS)
            advisory_lock(connection, _LOCK)
            revision = _revision(connection)
            if revision is not None and not is_known(revision):
                raise Conflict(
                    f"The database's tables ({revision}) are of a later release than this one. Run "
                    "that release, or restore a backup of this one with `opsin restore`."
                )
            if revision != newest():
                from alembic import command

                command.upgrade(_config(connection), "head")
            prepare_table(connection, is_new=revision is None)
    finally:
        engine.dispose()


def current(url: str) -> str | None:
    """The revision of a database's tables; None if there are none, or no database yet.

    Raises:
        Unavailable: The database does not answer.
        ValueError: As `upgrade`.
    """
    address = make_url(url)
    if address.get_backend_name() == "sqlite" and not Path(address.database or "").is_file():
        return None  # connecting would create it
    engine = open_engine(url)
    try:
        with reading(engine) as session:
            return _revision(session.connection())
    finally:
        engine.dispose()


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def newest() -> str:
    """The revision to which this release upgrades a database."""
    return max(_known())


def is_known(revision: str) -> bool:
    """Whether this release can upgrade tables of that revision."""
    return revision in _known()


def _known() -> set[str]:
    """The revisions of the files, such as 0001 of `v0001_jobs.py`."""
    return {file.name[1:5] for file in Path(__file__).parent.glob("versions/v*.py")}


def _config(connection: Connection | None = None) -> "Config":
    from alembic.config import Config

    config = Config()
    # ConfigParser would read a percent sign in a path as a reference to another option.
    folder = str(Path(__file__).parent).replace("%", "%%")
    config.set_main_option("script_location", folder)
    config.attributes["connection"] = connection
    return config
