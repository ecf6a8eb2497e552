"""Connections to SQLite or PostgreSQL, and transactions whose errors are translated to ours.

With SQLite, Python's driver begins transactions late and so upgrades locks in the middle, which
fails immediately regardless of the busy timeout. Therefore every transaction declares at its
beginning whether it will write.
"""

import sqlite3
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from contracts.errors import NeedsOperator, Unavailable
from contracts.settings import MIB

T = TypeVar("T")

_WAIT_SECONDS = 5  # for a lock, for a connection and for a statement
_REPLY_SECONDS = 2  # by which PostgreSQL may say later that a statement took too long
_IDLE_SECONDS = 30  # between two statements of a transaction, whose client may have vanished
_WRITES = "opsin_writes"  # execution option of a transaction that will write
_WRITERS = "opsin_writers"  # execution option of an engine: the semaphore of its writers
# Of the 15 connections of an engine. The rest is for transactions that only read: those that write
# wait for each other, and each would keep a connection meanwhile.
_SQLITE_WRITERS, _POSTGRESQL_WRITERS = 4, 8
STEP_BYTES = 16 * MIB
"""What a large deletion deletes in one transaction, which takes SQLite a sixth of a second."""
_DISK_FULL = "The disk of the database is full. Free space on it."
_NOTHING_WRITTEN = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_READONLY}
_SQLITE_FAULTS = {
    sqlite3.SQLITE_FULL: _DISK_FULL,
    # Readers too need a file of 32 KB that they share with writers.
    sqlite3.SQLITE_IOERR_SHMSIZE: _DISK_FULL,
    sqlite3.SQLITE_IOERR: "The database file cannot be read or written: its disk has a fault.",
    sqlite3.SQLITE_READONLY: "The database file is read-only. Correct its owner and permissions.",
    sqlite3.SQLITE_CANTOPEN: "The database file cannot be opened. Correct its owner and "
    "permissions, and those of its folder.",
}
"""What is said of errors that a retry does not cure, by extended or primary code."""


class DamagedDatabaseError(NeedsOperator):
    """The SQLite file is damaged, or no database."""


def open_engine(url: str) -> Engine:
    """Create the engine for an address. It connects only when it is used.

    Args:
        url: ``sqlite:///path`` or ``postgresql+psycopg://user:password@host/name``. The folder
            of an SQLite file is created if necessary.

    Raises:
        ValueError: It is neither, or SQLite without a file, or psycopg is not installed.
    """
    address = make_url(url)
    match address.get_backend_name():
        case "sqlite":
            engine, writers = _open_sqlite(address), _SQLITE_WRITERS
        case "postgresql":
            engine, writers = _open_postgresql(address), _POSTGRESQL_WRITERS
        case _:
            raise ValueError(
                "OPSIN_DATABASE_URL must start with sqlite:/// or postgresql+psycopg://"
            )
    engine.update_execution_options(**{_WRITERS: threading.BoundedSemaphore(writers)})
    return engine


def _open_sqlite(address: URL) -> Engine:
    if not address.database or address.database == ":memory:":
        raise ValueError("OPSIN_DATABASE_URL must name a file: every thread must see the same data")
    Path(address.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        address, pool_timeout=_WAIT_SECONDS, connect_args={"timeout": _WAIT_SECONDS}
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    cursor = connection.cursor()
    # FULL: what was acknowledged survives a power cut, as with PostgreSQL. Deleted data is
    # overwritten with zeros: faces and names must not remain in free pages. The write-ahead log
    # otherwise keeps the size of the largest transaction.
    for pragma in (
        *("foreign_keys = ON", "synchronous = FULL", "secure_delete = ON"),
        f"journal_size_limit = {STEP_BYTES}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def use_wal(engine: Engine) -> None:
    """Switch SQLite to write-ahead logging, so that readers never wait for a writer.

    A new file is also made so that it can shrink, see `database.space`; one that has tables would
    have to be rewritten first. The settings are stored in the file.

    The switch needs exclusive access for a moment and ignores the busy timeout, hence the loop:
    processes that start together do this at the same time.

    Raises:
        DamagedDatabaseError: It is not a database.
        Unavailable: Other processes kept the file busy, or it cannot be written.
    """
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            with closing(engine.raw_connection()) as connection:
                cursor = connection.cursor()
                cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
                cursor.execute("PRAGMA journal_mode = WAL")
                cursor.close()
        except sqlite3.Error as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise _of_sqlite(error) or _unavailable() from error
            time.sleep(0.05)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _open_postgresql(address: URL) -> Engine:
    limit = _WAIT_SECONDS * 1000
    try:
        from database.postgresql import TCP_LIMITS, bound_replies

        engine = create_engine(
            address.set(drivername="postgresql+psycopg", query={**TCP_LIMITS, **address.query}),
            pool_pre_ping=True,
            pool_timeout=_WAIT_SECONDS,
            connect_args={
                "connect_timeout": _WAIT_SECONDS,
                "fallback_application_name": "opsin",
                "options": f"-c statement_timeout={limit} -c lock_timeout={limit} "
                f"-c idle_in_transaction_session_timeout={_IDLE_SECONDS * 1000}",
            },
        )
    except ModuleNotFoundError:
        raise ValueError("PostgreSQL needs its driver: pip install 'psycopg[binary]'") from None
    bound_replies(engine, _WAIT_SECONDS + _REPLY_SECONDS)
    return engine


def allow_statements(connection: Connection, seconds: float) -> None:
    """Wait so long for each statement of a PostgreSQL connection, until the pool has it again.

    The caller also raises the server's own `statement_timeout`.
    """
    driver: Any = connection.connection.driver_connection
    driver.reply_seconds = seconds + _REPLY_SECONDS


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A transaction that only reads; it never waits for a writer.

    Raises:
        Unavailable: The database does not answer.
    """
    with _translated(), Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """A transaction that may write; on SQLite there is only one at a time.

    Raises:
        Unavailable: The database does not answer, or others keep it locked. Nothing was written,
            unless `is_outcome_unknown`.
    """
    writers: threading.BoundedSemaphore = engine.get_execution_options()[_WRITERS]
    if not writers.acquire(timeout=_WAIT_SECONDS):
        raise _unavailable()
    is_committing = False
    try:
        writer = engine.execution_options(**{_WRITES: True})
        with (
            _translated(),
            Session(writer, expire_on_commit=False) as session,
            session.begin() as transaction,
        ):
            yield session
            session.flush()
            driver: Any = session.connection().connection.driver_connection
            is_committing = True
            try:
                transaction.commit()
            except DBAPIError as error:
                if _is_undone(error):
                    driver.rollback()  # to SQLAlchemy it has ended, to SQLite it need not have
                    is_committing = False
                raise
    except Unavailable as error:
        error.is_outcome_unknown |= is_committing
        raise
    finally:
        writers.release()


def advisory_lock(connection: Connection, purpose: int) -> None:
    """Wait for the lock `purpose` and hold it until the transaction ends.

    SQLite needs no such lock, because it has only one writing transaction at a time.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:purpose)"), {"purpose": purpose})


def batches(items: Collection[T], size: int = 500) -> Iterator[list[T]]:
    """Divide values for `IN (...)`: a statement has at most 65,535 parameters in PostgreSQL.

    SQLite allows 32,766 unless it was built otherwise.
    """
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def reachable(engine: Engine) -> bool:
    """Whether the database answers now."""
    try:
        with reading(engine) as session:
            session.execute(text("SELECT 1"))
    except (Unavailable, SQLAlchemyError):
        return False
    return True


@contextmanager
def _translated() -> Iterator[None]:
    """Translate database errors to `Unavailable`, without the address or the statement."""
    try:
        yield
    except PoolTimeoutError as error:
        raise _unavailable() from error
    except DBAPIError as error:
        if (known := _of_sqlite(error.orig)) is not None:
            raise known from error
        if not (isinstance(error, OperationalError) or error.connection_invalidated):
            raise
        raise _unavailable() from error


def _is_undone(error: DBAPIError) -> bool:
    """Whether SQLite says that a COMMIT has written nothing: it shows there that a disk is full."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _NOTHING_WRITTEN


def _of_sqlite(error: BaseException | None) -> Unavailable | None:
    """What an error of SQLite becomes that the operator has to see to; None for any other."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    primary = code & 0xFF
    if primary in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return DamagedDatabaseError(
            "The database file is damaged, or is no database. Stop Opsin and restore a backup: "
            "`opsin restore --force`."
        )
    detail = _SQLITE_FAULTS.get(code) or _SQLITE_FAULTS.get(primary)
    return None if detail is None else Unavailable(detail, retry_after=30)


def _unavailable() -> Unavailable:
    return Unavailable("The database does not answer. Retry soon.", retry_after=2)
