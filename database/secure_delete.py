"""Removes what the database's own files still hold of deleted rows, after an erasure.

SQLite overwrites deleted content in its pages (`secure_delete`, see `database.engine`), but its
write-ahead log keeps the earlier pages until it is truncated.

In PostgreSQL a vacuum frees the place of a deleted row without overwriting it, so the tables that
hold personal data in plain are written anew, without the row. Its write-ahead log keeps the row
until the segment is overwritten; archives, replicas and backups are the operator's responsibility.
"""

import time
from contextlib import closing

import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from database.engine import allow_statements

log = structlog.get_logger()

_PLAIN_TABLES = "subjects, idempotency"
"""Tables with names and keys in them; the templates in others are unreadable without the key."""
_OTHER_TABLES = "face_templates, face_files, face_events, face_devices, jobs"
_WAIT_SECONDS = 2.0
_LOCK_WAIT = "2s"  # requests for a table wait behind a vacuum that waits for it
_VACUUM_SECONDS = 600


def purge_deleted_rows(engine: Engine, *, rewrite: bool = False) -> bool:
    """Truncate the log, or vacuum. Returns False if it failed and has to be repeated.

    Args:
        rewrite: Whether PostgreSQL shall write the tables with names anew. No request can read
            them meanwhile, so this is for after an erasure.
    """
    if engine.dialect.name == "sqlite":
        return _truncate_log(engine)
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            return _vacuum(connection, rewrite=rewrite)
    except SQLAlchemyError as error:
        log.warning("vacuum_failed", error=type(error).__name__)
        return False


def _vacuum(connection: Connection, *, rewrite: bool) -> bool:
    # A vacuum may take longer than the statements of requests.
    connection.execute(text(f"SET statement_timeout = '{_VACUUM_SECONDS}s'"))
    connection.execute(text(f"SET lock_timeout = '{_LOCK_WAIT}'"))
    allow_statements(connection, _VACUUM_SECONDS)
    try:
        if not rewrite:
            connection.execute(text(f"VACUUM {_PLAIN_TABLES}, {_OTHER_TABLES}"))
            return True
        if not _deleted_for_all(connection):
            return False
        connection.execute(text(f"VACUUM (FULL) {_PLAIN_TABLES}"))
        connection.execute(text(f"VACUUM {_OTHER_TABLES}"))
        return True
    finally:
        connection.execute(text("RESET statement_timeout"))
        connection.execute(text("RESET lock_timeout"))


def _deleted_for_all(connection: Connection) -> bool:
    """Wait until no transaction sees rows that were deleted before now; a vacuum keeps those."""
    now = connection.scalar(text("SELECT pg_current_xact_id()::xid::text"))
    older = text(
        "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND datname = current_database() AND age(backend_xmin) > age(CAST(:now AS xid)))"
    )
    deadline = time.monotonic() + _WAIT_SECONDS
    while connection.scalar(older, {"now": now}):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _truncate_log(engine: Engine) -> bool:
    """Move all pages to the database file and empty the log; waits a while for readers."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        with closing(engine.raw_connection()) as connection:
            cursor = connection.cursor()
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            (busy, _, _) = cursor.fetchone() or (1, 0, 0)
            cursor.close()
        if not busy:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
