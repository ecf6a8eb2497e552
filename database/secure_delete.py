"""Removes what the database's own files still hold of deleted rows, after an erasure.

SQLite overwrites deleted content in its pages (`secure_delete`, see `database.engine`), but its
write-ahead log keeps the earlier pages until it is truncated. PostgreSQL keeps deleted rows until a
vacuum; its archives and all backups are the operator's responsibility.
"""

import time
from contextlib import closing

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

_TABLES = "subjects, face_templates, face_files, face_events, idempotency, jobs"
_WAIT_SECONDS = 2.0


def purge_deleted_rows(engine: Engine) -> bool:
    """Truncate the log, or vacuum. Returns False if it failed and has to be repeated."""
    if engine.dialect.name == "sqlite":
        return _truncate_log(engine)
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"VACUUM {_TABLES}"))
    except SQLAlchemyError:
        return False
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
