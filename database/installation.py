"""The id that says which database and which home belong together.

Files of jobs and faces without a row are deleted. A wrong database address, whose tables are empty,
would thus delete all of them; so both sides carry the same id, and nothing is deleted where the ids
differ. A side without an id was made by an earlier release and takes over the other's.
"""

import secrets
from contextlib import suppress
from pathlib import Path

import structlog
from sqlalchemy import Connection, Engine, inspect, select
from sqlalchemy.orm import Session

from contracts.errors import Conflict
from database.engine import advisory_lock, reading, writing
from database.tables import InstallationRecord

log = structlog.get_logger()

_LOCK = 0x0951_0008  # see `database.engine.advisory_lock`

FILE = "installation"
"""Name of the file below `$OPSIN_HOME`."""


def prepare_table(connection: Connection, *, is_new: bool) -> None:
    """Create the table if it is missing; a new database gets an id at once.

    It is no step of the migrations: the previous release refuses to start with tables whose
    revision it does not know, and it may run side by side with this one.
    """
    table = InstallationRecord.metadata.tables[InstallationRecord.__tablename__]
    table.create(connection, checkfirst=True)
    if is_new:
        connection.execute(table.insert().values(only=1, id=_new_id()))


def home_id(home: Path) -> str | None:
    """The id of a home; None if an earlier release has made it."""
    with suppress(FileNotFoundError):
        return (home / FILE).read_text("ascii").strip() or None
    return None


def belongs_to(engine: Engine, home: Path) -> bool:
    """Whether files of that home may be deleted because this database has no row for them.

    Raises:
        Unavailable: The database does not answer.
    """
    expected = home_id(home)
    if expected is None:
        return True
    with reading(engine) as session:
        actual = _database_id(session)
    if actual != expected:
        log.error("foreign_database", home=str(home), hint="check OPSIN_DATABASE_URL")
    return actual == expected


def adopt(engine: Engine, home: Path) -> None:
    """Give the side that has no id the id of the other one, or both a new one.

    Raises:
        Conflict: They have different ids, or an empty database meets a home that holds files.
        Unavailable: The database does not answer.
        OSError: The home cannot be written to.
    """
    expected = home_id(home)
    with writing(engine) as session:
        # Two processes that start at once would both add the row, and one would not start.
        advisory_lock(session.connection(), _LOCK)
        row = session.get(InstallationRecord, 1)
        if row is None:
            row = InstallationRecord(only=1, id=expected or _new_id())
            session.add(row)
        actual = row.id
    if expected is not None and expected != actual:
        raise _foreign(home, actual)
    if expected is None:
        _write(home, actual)


def _write(home: Path, installation_id: str) -> None:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = home / f".{FILE}.{secrets.token_hex(8)}.part"
    try:
        part.write_text(f"{installation_id}\n", "ascii")
        part.replace(home / FILE)
    finally:
        part.unlink(missing_ok=True)


def require_database(home: Path, *, exists: bool) -> None:
    """Check, before a database is created, that the home does not belong to another one.

    Raises:
        Conflict: It does: it has an id, or holds files of faces or jobs that only rows make usable.
    """
    if exists:
        return
    holds_files = any(any(home.glob(pattern)) for pattern in ("faces/sub_*/*", "jobs/job_*"))
    if home_id(home) is not None or holds_files:
        raise _foreign(home, None)


def _foreign(home: Path, actual: str | None) -> Conflict:
    which = "is empty" if actual is None else f"has the id {actual}"
    return Conflict(
        f"The database that OPSIN_DATABASE_URL names {which}, and {home} belongs to another one: "
        "the files of its faces and jobs would be deleted as files without a row. Set "
        "OPSIN_DATABASE_URL to the database of this home, or OPSIN_HOME to the home of this "
        "database. If they do belong together, "
        + (
            f"move {home / FILE}, {home / 'faces'} and {home / 'jobs'} aside and start again."
            if actual is None
            else f"write that id to {home / FILE}."
        )
    )


def _database_id(session: Session) -> str | None:
    if not inspect(session.connection()).has_table(InstallationRecord.__tablename__):
        return None
    return session.scalar(select(InstallationRecord.id).where(InstallationRecord.only == 1))


def _new_id() -> str:
    return f"ins_{secrets.token_hex(12)}"
