"""Bringing a database to the present tables, by Alembic, without an alembic.ini."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, make_url, text

from database.engine import alone, open_engine, reading, use_wal, writing

_LOCK = 0x0951_0001  # any number that no other advisory lock of ours has


def upgrade(url: str) -> None:
    """Make or bring up to date all tables; nothing happens when they are.

    Processes that start together take turns: the later one finds the work done. All of it
    happens in one transaction, so a process that dies on the way leaves the old tables.

    Raises:
        Unavailable: The database does not answer.
        ValueError: `url` is no address of a database Opsin can use.
    """
    engine = open_engine(url)
    try:
        if engine.dialect.name == "sqlite":
            use_wal(engine)
        with writing(engine) as session:
            connection = session.connection()
            if (
                engine.dialect.name == "postgresql"
            ):  # a step, or the wait for another's, may be long
                connection.execute(text("SET LOCAL statement_timeout = '10min'"))
                connection.execute(text("SET LOCAL lock_timeout = '10min'"))
            alone(connection, _LOCK)
            command.upgrade(_config(connection), "head")
    finally:
        engine.dispose()


def current(url: str) -> str | None:
    """The revision of a database's tables; None where there are none, or no database yet.

    Raises:
        Unavailable: The database does not answer.
        ValueError: As `upgrade`.
    """
    address = make_url(url)
    if address.get_backend_name() == "sqlite" and not Path(address.database or "").is_file():
        return None  # to look would make it
    engine = open_engine(url)
    try:
        with reading(engine) as session:
            connection = session.connection()
            if not inspect(connection).has_table("alembic_version"):
                return None
            found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
            return found
    finally:
        engine.dispose()


def newest() -> str:
    """The revision that this release brings a database to."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise RuntimeError("there are no migrations beside this file")
    return head


def is_known(revision: str) -> bool:
    """Whether this release can bring tables of that revision up to date."""
    scripts = ScriptDirectory.from_config(_config())
    return revision in {one.revision for one in scripts.walk_revisions()}


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    # A percent sign in a path would be read as a reference to another option.
    folder = str(Path(__file__).parent).replace("%", "%%")
    config.set_main_option("script_location", folder)
    config.attributes["connection"] = connection
    return config
