"""Removes what the database's own files still hold of deleted rows, after an erasure.

SQLite overwrites deleted content in its pages (`secure_delete`, see `database.engine`), but its
write-ahead log keeps the earlier pages until it is truncated.

In PostgreSQL a vacuum frees the place of a deleted row without overwriting it, so the tables that
hold personal data in plain are written anew, without the row. Its write-ahead log keeps the row
until the segment is overwritten; archives, replicas and backups are the operator's responsibility.

No request can read these tables while they are written. However many people are erased, by however
many processes, one rewrite runs at a time, serves all erasures that have begun before it, and is
followed by a rest in proportion to the time that it took.
"""

import time
from contextlib import closing

import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from database.engine import allow_statements
from database.faces.privacy.erasures import REWRITTEN

log = structlog.get_logger()

_PLAIN_TABLES = "subjects, idempotency"
"""Tables with names and keys in them; the templates in others are unreadable without the key."""
_OTHER_TABLES = "face_templates, face_files, face_events, face_devices, jobs"
_WAIT_SECONDS = 2.0
_LOCK_WAIT = "2s"  # requests for a table wait behind a vacuum that waits for it
_VACUUM_SECONDS = 600
_LOCK = 0x0951_0009  # see `database.engine.advisory_lock`
_POLL_SECONDS = 0.25
_RESTS = 4  # times as long as a rewrite took, so that readers wait for a fifth of the time at most
_LONGEST_REST_SECONDS = 30.0
_LEFT = """
SELECT id FROM face_events WHERE kind = 'erasure' AND outcome = 'erasing' AND reason IS NULL
"""
_MARK = """
UPDATE face_events SET reason = :rewritten WHERE id = ANY(:ids) AND outcome = 'erasing'
"""
_REST_LEFT = """
SELECT (value ->> 'until')::float8 - extract(epoch FROM clock_timestamp())::float8
FROM face_settings WHERE key = 'table_rewrite'
"""
_SET_REST = """
INSERT INTO face_settings (key, value, updated_at)
SELECT 'table_rewrite', json_build_object('until', extract(epoch FROM at) + :seconds), at
FROM clock_timestamp() AS at
ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at
"""


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


def rewrite_for_erasures(engine: Engine) -> float:
    """Rewrite PostgreSQL's tables that hold names, if erasures need it, and mark those erasures.

    Returns:
        Seconds after which to try again: another process rewrites them, or a rest is due. 0.0 if no
        unmarked erasure was left or the tables were rewritten, and also if that failed, which the
        erasures tell (`Erasures.not_rewritten_among`).
    """
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if not connection.scalar(text(f"SELECT pg_try_advisory_lock({_LOCK})")):
                return _POLL_SECONDS
            try:
                return _rewrite_if_due(connection)
            finally:
                connection.execute(text(f"SELECT pg_advisory_unlock({_LOCK})"))
    except SQLAlchemyError as error:
        log.warning("vacuum_failed", error=type(error).__name__)
        return 0.0


def _rewrite_if_due(connection: Connection) -> float:
    ids = list(connection.scalars(text(_LEFT)))
    if not ids:
        return 0.0
    # A longer rest is that of a clock that has been set back, or of a backup.
    if 0 < (rest := connection.scalar(text(_REST_LEFT)) or 0.0) <= _LONGEST_REST_SECONDS:
        return float(rest)
    began = time.monotonic()
    try:
        if _vacuum(connection, rewrite=True):
            connection.execute(text(_MARK), {"rewritten": REWRITTEN, "ids": ids})
    finally:
        rest = min(_RESTS * (time.monotonic() - began), _LONGEST_REST_SECONDS)
        connection.execute(text(_SET_REST), {"seconds": rest})
    return 0.0


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
