"""The id that says which database and which home belong together.

Files of jobs and faces without a row are deleted. A wrong database address, whose tables are empty,
would thus delete all of them; so both sides carry the same id, and nothing is deleted where the ids
differ. A side without an id was made by an earlier release and takes over the other's, unless it is
an empty home and the database names files: then `OPSIN_HOME` is wrong, or a disk is not mounted.
While the database names nothing, only the service itself gives its id to an empty home: a command
may run on another machine, where `OPSIN_HOME` is not set.
"""

import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, Select, inspect, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from contracts.errors import Conflict, DiskUnusable
from contracts.files import write_durably
from database.crypto.cipher import sealing_key_ids
from database.crypto.master_keys import read_keys
from database.engine import advisory_lock, batches, reading, writing
from database.tables import DatasetRecord, InstallationRecord, JobRecord, SubjectRecord

log = structlog.get_logger()

_LOCK = 0x0951_0008  # see `database.engine.advisory_lock`

FILE = "installation"
"""Name of the file below `$OPSIN_HOME`."""

_FOLDERS: dict[str, tuple[str, InstrumentedAttribute[str]]] = {
    "datasets": ("datasets/ds_*", DatasetRecord.id),
    "jobs": ("jobs/job_*", JobRecord.id),
    "enrolled people": ("faces/sub_*", SubjectRecord.id),
}
"""What has files in the home: where its folders are, and the column that names them."""


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
    """The id of a home; None if it is not there at the moment, or an earlier release has made it.

    One that cannot be read is not there: it may be a moment without file descriptors, or a fault
    of a network disk.
    """
    with suppress(OSError, UnicodeDecodeError):
        return (home / FILE).read_text("ascii").strip() or None
    return None


def require_mounted(home: Path) -> None:
    """Check, before anything that is acknowledged is written to the home, that it is there.

    Otherwise it would be written to the empty folder that its disk is mounted on, and be hidden by
    the disk later. Touches the disk: call it in a thread.

    Raises:
        DiskUnusable: It is not mounted, or cannot be read at the moment.
    """
    if home_id(home) is None:
        log.error("home_missing", home=str(home), hint="check OPSIN_HOME and its mount")
        raise DiskUnusable(
            "The service's data disk is not mounted, or cannot be read at the moment. Retry later.",
            retry_after=60,
        )


def _stored_id(home: Path) -> str | None:
    """The id of a home; None if an earlier release has made it.

    Raises:
        Conflict: Its id cannot be read.
    """
    try:
        return (home / FILE).read_text("ascii").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise Conflict(
            f"The id of the home cannot be read: {home / FILE}: {error}. Check the disk of "
            "OPSIN_HOME, then start again."
        ) from error


def belongs_to(engine: Engine, home: Path) -> bool:
    """Whether it is the home of this database, so that files may be deleted for want of a row.

    Raises:
        Unavailable: The database does not answer.
    """
    expected = home_id(home)
    if expected is None:  # every start gives it an id
        log.error("home_missing", home=str(home), hint="check OPSIN_HOME and its mount")
        return False
    with reading(engine) as session:
        actual = _database_id(session)
    if actual != expected:
        log.error("foreign_database", home=str(home), hint="check OPSIN_DATABASE_URL")
    return actual == expected


def require_home(engine: Engine, home: Path, *, is_start: bool = False) -> None:
    """Check that the home is that of this database, which exists.

    Args:
        is_start: As for `adopt`.

    Raises:
        Conflict: They have different ids, or the home has neither an id nor a file that the
            database names, or its id cannot be read.
        Unavailable: The database does not answer.
    """
    expected = _stored_id(home)
    with reading(engine) as session:
        actual = _database_id(session)
        if expected is None:
            _require_files(session, home, actual, is_start=is_start)
        elif actual is not None and actual != expected:
            raise _foreign(home, actual)


def adopt(engine: Engine, home: Path, *, is_start: bool = True, is_restored: bool = False) -> None:
    """Give the side that has no id the id of the other one, or both a new one.

    Args:
        is_start: Whether the service starts, or the database was just created: then a home without
            an id gets that of a database that names nothing yet.
        is_restored: Whether database and home were just restored from one backup, which may hold
            people without any file.

    Raises:
        Conflict: As `require_home`.
        Unavailable: The database does not answer.
        OSError: The home cannot be written to.
    """
    expected = _stored_id(home)
    with writing(engine) as session:
        # Two processes that start at once would both add the row, and one would not start.
        advisory_lock(session.connection(), _LOCK)
        row = session.get(InstallationRecord, 1)
        if expected is None and not is_restored:
            actual_id = None if row is None else row.id
            _require_files(session, home, actual_id, is_start=is_start)
        if row is None:
            row = InstallationRecord(only=1, id=expected or _new_id())
            session.add(row)
        actual = row.id
    if expected is not None and expected != actual:
        raise _foreign(home, actual)
    if expected is None:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(home / FILE, f"{actual}\n".encode(), mode=0o644)


def _require_files(session: Session, home: Path, actual: str | None, *, is_start: bool) -> None:
    """Check that a home without an id holds files of the database, if that names any.

    Args:
        actual: The database's id; None if it was made by an earlier release.
        is_start: As for `adopt`.
    """
    if _holds_database(session, home):
        return
    folders, key_ids = _folders(session), sealing_key_ids(session)
    named = [what for what, (_, column) in folders.items() if _has(session, select(column))]
    if key_ids and "enrolled people" not in named:
        named.append("keys of faces")
    if not named and actual is not None and not is_start:
        raise _unknown(home, actual)
    if not named or key_ids & set(_key_file_ids(home)):
        return
    if actual is None and any((home / name).exists() for name in ("datasets", "jobs", "faces")):
        return
    if _holds_named(session, home, folders):
        return
    raise Conflict(
        f"The database that OPSIN_DATABASE_URL names holds {_enumerated(named)}, and {home} none "
        "of their files: it is the home of nothing yet. Set OPSIN_HOME to the home of this "
        "database, or mount its disk. If those files are lost, `opsin restore` puts back a "
        f"backup; to go on without them, write the id {actual or _new_id()} to {home / FILE}."
    )


def _folders(session: Session) -> dict[str, tuple[str, InstrumentedAttribute[str]]]:
    """`_FOLDERS` without the tables that an earlier release does not have."""
    tables = set(inspect(session.connection()).get_table_names())
    return {k: v for k, v in _FOLDERS.items() if v[1].class_.__tablename__ in tables}


def _holds_named(
    session: Session, home: Path, folders: dict[str, tuple[str, InstrumentedAttribute[str]]]
) -> bool:
    return any(
        _has(session, select(column).where(column.in_(names)))
        for pattern, column in folders.values()
        for names in batches([path.name for path in home.glob(pattern)])
    )


def _has(session: Session, query: Select[Any]) -> bool:
    return session.scalar(query.limit(1)) is not None


def _holds_database(session: Session, home: Path) -> bool:
    """Whether the database is a file in that home, so that they can only come together."""
    url = session.connection().engine.url
    if url.get_backend_name() != "sqlite" or not url.database:
        return False
    return Path(url.database).resolve().is_relative_to(home.resolve())


def _key_file_ids(home: Path) -> Iterator[str]:
    """The ids of the keys in the home's file, if it can be read."""
    with suppress(OSError, ValueError):
        for key in read_keys((home / "secrets/faces.keys").read_text()):
            yield key.id


def _enumerated(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def require_database(home: Path) -> None:
    """Check, before a database is created, that the home does not belong to another one.

    Raises:
        Conflict: It does: it has an id, or holds files of faces or jobs that only rows make usable.
    """
    holds_files = any(any(home.glob(pattern)) for pattern in ("faces/sub_*/*", "jobs/job_*"))
    if _stored_id(home) is not None or holds_files:
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


def _unknown(home: Path, actual: str) -> Conflict:
    return Conflict(
        f"The database that OPSIN_DATABASE_URL names has the id {actual}, and {home} has none: it "
        "is the home of nothing yet. Set OPSIN_HOME to the home of this database, or mount its "
        "disk. If the service is to run from this home, start `opsin up` or `opsin serve` first."
    )


def _database_id(session: Session) -> str | None:
    if not inspect(session.connection()).has_table(InstallationRecord.__tablename__):
        return None
    return session.scalar(select(InstallationRecord.id).where(InstallationRecord.only == 1))


def _new_id() -> str:
    return f"ins_{secrets.token_hex(12)}"
