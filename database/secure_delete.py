"""After an erasure: what a database's own files still hold of the rows that went.

SQLite overwrites deleted content in its pages (`secure_delete`, see `database.engine`), but its
write-ahead log holds the pages of before until it is cut. PostgreSQL leaves the old rows in place
until a vacuum; its archives and every backup are the operator's.
"""

import time
from contextlib import closing

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

_TABLES = "subjects, face_templates, face_files, face_events, idempotency, jobs"
_WAIT_SECONDS = 2.0


def scrub(engine: Engine) -> bool:
    """Cut the log, or vacuum; False where others kept us from it, and it is to be done again."""
    if engine.dialect.name == "sqlite":
        return _cut_log(engine)
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"VACUUM {_TABLES}"))
    except SQLAlchemyError:
        return False
    return True


def _cut_log(engine: Engine) -> bool:
    """Move all pages into the database's file and empty the log; readers may be in the way."""
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
