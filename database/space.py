"""Deletes many rows at a time, and gives the disk back what they leave in an SQLite file.

SQLite writes what a transaction changes to its log first, and zeros over what it deletes: a
deletion of a gigabyte would take another one beside the file, and the lock of the only writer for
ten seconds. So large deletions are divided. A file keeps the pages of deleted rows for others; they
are cut off in steps as well, which needs `auto_vacuum`, see `database.engine.use_wal`.
"""

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection, Engine, delete, select
from sqlalchemy.exc import SQLAlchemyError

from contracts.settings import MIB
from database.engine import STEP_BYTES, reading, writing

log = structlog.get_logger()

K = TypeVar("K")

_STEP_ROWS = 10_000  # of lines, which have a few hundred bytes each
_PAUSE_SECONDS = 0.03  # between steps: waiting writers of SQLite try again every 0.1 s at least
_WAIT_SECONDS = 2.0
_KEPT_BYTES = 16 * MIB  # of free pages, which the next rows will need
_INCREMENTAL = 2  # the value of `auto_vacuum`
# A file of an earlier release is written anew if that takes a second.
_WASTED_BYTES = 64 * MIB
_REWRITTEN_BYTES = 64 * MIB


def steps(sizes: Iterable[tuple[K, int]], most: int = STEP_BYTES) -> Iterator[list[K]]:
    """Divide rows, so that each deletion is a short one.

    Args:
        sizes: Key and bytes of each.
        most: Bytes of a step; one row may have more.
    """
    total, step = 0, list[K]()
    for key, size in sizes:
        if step and total + size > most:
            yield step
            total, step = 0, []
        total += size
        step.append(key)
    if step:
        yield step


def delete_in_steps(engine: Engine, key: Any, condition: Any) -> int:
    """Delete lines of a log, in several transactions; returns their number.

    Args:
        engine: Of the database.
        key: The column of their ids.
        condition: Which lines.
    """
    which, total = select(key).where(condition).order_by(key).limit(_STEP_ROWS), 0
    while True:
        with writing(engine) as session:
            done = session.connection().execute(delete(key.class_).where(key.in_(which))).rowcount
        total += done
        if done < _STEP_ROWS:
            return total
        pause(engine)


def pause(engine: Engine) -> None:
    """Let other writers in between two steps, and empty SQLite's log if it has grown.

    While others write too, it would not begin anew by itself. It is not waited long for readers,
    because no one can write meanwhile.
    """
    if engine.dialect.name == "sqlite" and _size(f"{engine.url.database}-wal") >= STEP_BYTES:
        _run(engine, "PRAGMA busy_timeout = 100; PRAGMA wal_checkpoint(TRUNCATE)", is_last=True)
    time.sleep(_PAUSE_SECONDS)


def _size(path: str) -> int:
    with suppress(OSError):
        return Path(path).stat().st_size
    return 0


def truncate_log(engine: Engine) -> bool:
    """Move all pages to the SQLite file and empty its log; waits a while for readers.

    Returns:
        Whether it is empty.
    """
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            with closing(engine.raw_connection()) as connection:
                cursor = connection.cursor()
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                (busy, _, _) = cursor.fetchone() or (1, 0, 0)
                cursor.close()
        except (sqlite3.Error, SQLAlchemyError) as error:  # such as a full disk
            log.warning("database_log_not_truncated", error=type(error).__name__)
            return False
        if not busy:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)


def relieve_log(engine: Engine) -> None:
    """Empty SQLite's log after a transaction that found no room: it keeps the size that it had."""
    if engine.dialect.name == "sqlite":
        truncate_log(engine)


def give_back(engine: Engine) -> bool:
    """Cut free pages off an SQLite file, as many as take a moment; returns whether more are left.

    Raises:
        Unavailable: The database does not answer.
    """
    if engine.dialect.name != "sqlite":
        return False
    with reading(engine) as session:
        connection = session.connection()
        page, free = _number(connection, "page_size"), _number(connection, "freelist_count")
        used = (_number(connection, "page_count") - free) * page
        is_divided = _number(connection, "auto_vacuum") == _INCREMENTAL
    spare = free * page
    if not is_divided:
        if spare >= _WASTED_BYTES and used <= _REWRITTEN_BYTES and _has_room(engine, 2 * used):
            _rewrite(engine)
        return False
    if spare <= _KEPT_BYTES:
        return False
    pages = min(spare - _KEPT_BYTES, STEP_BYTES // 2) // page
    # As a script: Python ends other statements without columns after their first step, or page.
    if not _run(engine, f"PRAGMA incremental_vacuum({pages})"):
        return False
    pause(engine)
    return spare - pages * page > _KEPT_BYTES + page


def _number(connection: Connection, pragma: str) -> int:
    return int(connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one())


def _has_room(engine: Engine, size: int) -> bool:
    folder = os.statvfs(Path(str(engine.url.database)).parent)
    return folder.f_bavail * folder.f_frsize >= size


def _rewrite(engine: Engine) -> None:
    """Write the whole file anew, so that from now on it can be cut off in steps."""
    # In memory: otherwise the names in it would pass through a file in /tmp.
    settings = f"PRAGMA temp_store = MEMORY; PRAGMA auto_vacuum = {_INCREMENTAL}"
    if _run(engine, f"{settings}; VACUUM", is_last=True):
        log.info("database_rewritten")


def _run(engine: Engine, script: str, *, is_last: bool = False) -> bool:
    """Run a script outside of transactions; returns whether that succeeded.

    Args:
        engine: Of the file.
        script: Its statements.
        is_last: Whether to close the connection, whose settings it changes.
    """
    try:
        with closing(engine.raw_connection()) as connection:
            driver: Any = connection.driver_connection
            try:
                driver.executescript(script)
            finally:
                if is_last:
                    connection.invalidate()
    except (sqlite3.Error, SQLAlchemyError) as error:
        log.warning("database_not_shrunk", error=type(error).__name__)
        return False
    return True
