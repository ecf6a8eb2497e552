"""Removes what the database's own files still hold of deleted rows, after an erasure.

SQLite overwrites deleted content in its pages (`secure_delete`, see `database.engine`), but its
write-ahead log keeps the earlier pages until it is truncated.

In PostgreSQL a vacuum frees the place of a deleted row without overwriting it, so the tables that
hold personal data in plain are written anew. They keep what something may still see, such as a
transaction that began before the deletion, or a query on a standby; so an erasure waits for these.
PostgreSQL's write-ahead log keeps the row until the segment is overwritten; archives, replicas and
backups are the operator's responsibility.

No request can read these tables while they are written. However many people are erased, by however
many processes, one rewrite runs at a time, serves all erasures that have begun before it, and is
followed by a rest in proportion to the time that it took.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from database.engine import allow_statements, reading
from database.faces.privacy.erasures import REWRITTEN
from database.faces.search.vector_tables import restore_index, rewrite_vectors
from database.space import truncate_log

log = structlog.get_logger()

_PLAIN_TABLES = "subjects, idempotency, face_devices"
"""Tables with names and keys in them; the templates in others are unreadable without the key."""
_OTHER_TABLES = "face_templates, face_files, face_events, jobs"
_OLDER_SECONDS = 5.0  # as long as a statement of Opsin's own transactions
_LOCK_WAIT = "2s"  # requests for a table wait behind a vacuum that waits for it
_VACUUM_SECONDS = 600
_LOCK = 0x0951_0009  # see `database.engine.advisory_lock`
_POLL_SECONDS = 0.25
_RESTS = 4  # times as long as a rewrite took, so that readers wait for a fifth of the time at most
_LONGEST_REST_SECONDS = 30.0
# The transaction that wrote the row tells whether `delete_traces` has unmarked it meanwhile.
_LEFT = """
SELECT id, xmin::text FROM face_events
WHERE kind = 'erasure' AND outcome = 'erasing' AND reason IS NULL
"""
_MARK = """
UPDATE face_events SET reason = :rewritten
FROM unnest(CAST(:ids AS bigint[]), CAST(:writers AS text[])) AS seen (id, writer)
WHERE face_events.id = seen.id AND face_events.xmin::text = seen.writer
    AND outcome = 'erasing'
"""
# What makes a vacuum keep deleted rows. A snapshot begins with the oldest transaction that has
# written in any database, so these count; snapshots themselves only of this database, and of
# standbys, which have none here. A slot's `catalog_xmin` keeps no rows of ordinary tables. Before
# PostgreSQL 16 the server may keep some transactions more. Every role can read all of this.
_SEEN_BY = """
SELECT what FROM (
    SELECT 'a transaction' AS what, age(backend_xid) AS age FROM pg_stat_activity
    WHERE pid <> pg_backend_pid()
    UNION ALL
    SELECT CASE WHEN datname IS NULL THEN 'a query on a standby' ELSE 'a transaction' END,
        age(backend_xmin) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND (datname IS NULL OR datname = current_database())
        AND pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum)
    UNION ALL SELECT 'the replication slot ' || slot_name, age(xmin) FROM pg_replication_slots
    UNION ALL SELECT 'a prepared transaction', age(transaction) FROM pg_prepared_xacts
    UNION ALL SELECT 'vacuum_defer_cleanup_age', 0
) AS held
WHERE age + coalesce(CAST(current_setting('vacuum_defer_cleanup_age', true) AS integer), 0)
    > age(CAST(:now AS xid))
ORDER BY age DESC LIMIT 1
"""
_FILES = """
SELECT pg_relation_filenode(CAST(name AS regclass))
FROM regexp_split_to_table(:tables, ', ') AS name
"""
# The owner of the database may vacuum them too; since PostgreSQL 17, whoever may maintain them.
_OF_OTHERS = """
SELECT relname FROM pg_class, pg_database
WHERE pg_class.oid IN (
    SELECT CAST(name AS regclass) FROM regexp_split_to_table(:tables, ', ') AS name
) AND datname = current_database() AND NOT pg_has_role(relowner, 'USAGE')
AND NOT pg_has_role(datdba, 'USAGE') {and_not} ORDER BY relname
"""
_MAINTAINED = "AND NOT has_table_privilege(pg_class.oid, 'MAINTAIN')"
_MAINTAINED_SINCE = 170_000
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
        return truncate_log(engine)
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if rewrite:
                now = _deleted_for_all(connection)
                return now is not None and _rewrite(connection, now)
            with _time_to_vacuum(connection):
                connection.execute(text(f"VACUUM {_PLAIN_TABLES}, {_OTHER_TABLES}"))
            restore_index(connection, engine)  # after a rewrite whose process ended
            return True
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
                restore_index(connection, engine)
    except SQLAlchemyError as error:
        log.warning("vacuum_failed", error=type(error).__name__)
        return 0.0


def tables_of_others(engine: Engine) -> list[str]:
    """The tables that this role of PostgreSQL may not rewrite, so that no erasure ends.

    Raises:
        Unavailable: The database does not answer.
    """
    if engine.dialect.name == "sqlite":
        return []
    with reading(engine) as session:
        version = int(session.scalar(text("SHOW server_version_num")) or 0)
        query = _OF_OTHERS.format(and_not=_MAINTAINED if version >= _MAINTAINED_SINCE else "")
        return list(session.scalars(text(query), {"tables": _PLAIN_TABLES}))


def _rewrite_if_due(connection: Connection) -> float:
    left = connection.execute(text(_LEFT)).all()
    if not left:
        return 0.0
    # A longer rest is that of a clock that has been set back, or of a backup.
    if 0 < (rest := connection.scalar(text(_REST_LEFT)) or 0.0) <= _LONGEST_REST_SECONDS:
        return float(rest)
    if (now := _deleted_for_all(connection)) is None:
        return 0.0
    began = time.monotonic()
    try:
        if _rewrite(connection, now):
            ids, writers = (list(column) for column in zip(*left, strict=True))
            connection.execute(
                text(_MARK), {"rewritten": REWRITTEN, "ids": ids, "writers": writers}
            )
    finally:
        rest = min(_RESTS * (time.monotonic() - began), _LONGEST_REST_SECONDS)
        connection.execute(text(_SET_REST), {"seconds": rest})
    return 0.0


def _rewrite(connection: Connection, now: str) -> bool:
    """Write the tables anew. Returns whether rows are gone that were deleted before `now`."""
    with _time_to_vacuum(connection):
        if not rewrite_vectors(connection):
            return False
        before = _files(connection)
        connection.execute(text(f"VACUUM (FULL) {_PLAIN_TABLES}"))
        connection.execute(text(f"VACUUM {_OTHER_TABLES}"))
    # PostgreSQL only warns of tables that it skips because this role may not vacuum them.
    if before & _files(connection):
        log.warning("vacuum_failed", error="the tables belong to another role")
        return False
    # A standby that lags may have begun a query meanwhile that sees the rows.
    return _seen_by(connection, now) is None


def _files(connection: Connection) -> set[int]:
    """The numbers of the tables' files, which change when the tables are written anew."""
    return set(connection.scalars(text(_FILES), {"tables": _PLAIN_TABLES}))


@contextmanager
def _time_to_vacuum(connection: Connection) -> Iterator[None]:
    """Let statements take longer than those of requests."""
    connection.execute(text(f"SET statement_timeout = '{_VACUUM_SECONDS}s'"))
    connection.execute(text(f"SET lock_timeout = '{_LOCK_WAIT}'"))
    allow_statements(connection, _VACUUM_SECONDS)
    try:
        yield
    finally:
        connection.execute(text("RESET statement_timeout"))
        connection.execute(text("RESET lock_timeout"))


def _deleted_for_all(connection: Connection) -> str | None:
    """Wait until nothing sees rows that were deleted before now; a vacuum keeps those.

    Returns:
        The number of a transaction of now; None if something goes on seeing them.
    """
    now = str(connection.scalar(text("SELECT pg_current_xact_id()::xid::text")))
    deadline = time.monotonic() + _OLDER_SECONDS
    while (what := _seen_by(connection, now)) is not None:
        if time.monotonic() > deadline:
            log.warning("vacuum_held_back", by=what)
            return None
        time.sleep(0.05)
    return now


def _seen_by(connection: Connection, now: str) -> str | None:
    """What may see rows that were deleted before the transaction `now`; None if nothing."""
    found: str | None = connection.scalar(text(_SEEN_BY), {"now": now})
    return found
