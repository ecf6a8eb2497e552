"""The tables of `VectorSearch` in PostgreSQL, and how they forget whom an erasure has deleted.

A deleted row stays in the table's file until the table is rewritten, which locks it. With the index
of nearest neighbors that would take minutes, so the index is dropped before, and built again while
others read and write. A search without it compares with everybody.
"""

from threading import Thread

import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from contracts.faces.subjects import EMBEDDING_SIZE
from database.engine import allow_statements

log = structlog.get_logger()

_LOCK = 0x0951_0011  # see `database.engine.advisory_lock`; held to build or drop the index
_BUILD_SECONDS = 4 * 3600
_TYPE = f"vector({EMBEDDING_SIZE})"
_DROP_INDEX = text("DROP INDEX IF EXISTS face_vectors_nearest")
_INDEX = "face_vectors_nearest ON face_vectors USING hnsw (turned vector_ip_ops)"
_TABLES = (
    f"""CREATE TABLE IF NOT EXISTS face_vectors (
        id bigserial PRIMARY KEY,
        subject_id varchar(64) NOT NULL REFERENCES subjects (id) ON DELETE CASCADE,
        turned {_TYPE} NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS face_vectors_subject ON face_vectors (subject_id)",
    """CREATE TABLE IF NOT EXISTS face_vectors_state (
        id integer PRIMARY KEY,
        embedder varchar(80) NOT NULL,
        key_id varchar(32) NOT NULL,
        revision bigint NOT NULL)""",
)
_HAS_TABLE = text("SELECT to_regclass('face_vectors') IS NOT NULL")
_HAS_STATISTICS = text(
    """SELECT coalesce(attstattarget, -1) <> 0 FROM pg_attribute
    WHERE attrelid = 'face_vectors'::regclass AND attname = 'turned'"""
)
_WITHOUT_STATISTICS = (
    "ALTER TABLE face_vectors ALTER COLUMN turned SET STATISTICS 0",
    # Setting the type, even the same one, drops what was collected so far.
    f"ALTER TABLE face_vectors ALTER COLUMN turned TYPE {_TYPE}",
)
_LACKS_INDEX = text(
    """SELECT to_regclass('face_vectors') IS NOT NULL AND NOT EXISTS (SELECT FROM pg_index
    WHERE indisvalid AND indexrelid = to_regclass('face_vectors_nearest'))"""
)


def make_tables(session: Session) -> None:
    """Create what does not exist; the index only with the table, since it takes long to build."""
    session.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
    is_new = not session.scalar(_HAS_TABLE)
    for statement in _TABLES:
        session.execute(text(statement))
    if is_new:
        session.execute(text(f"CREATE INDEX {_INDEX}"))
    if session.scalar(_HAS_STATISTICS):
        # They contain values of rows, and an erasure would not delete them.
        for statement in _WITHOUT_STATISTICS:
            session.execute(text(statement))


def rewrite_vectors(connection: Connection) -> bool:
    """Rewrite the table, if it exists, without its index; `restore_index` builds that again.

    Args:
        connection: Without a transaction, and with time for a vacuum.

    Returns:
        False if the index is being built, so that it has to be tried later.
    """
    if not connection.scalar(_HAS_TABLE):
        return True
    if not _lock(connection):
        log.warning("vacuum_held_back", by="the index of faces, which is being built")
        return False
    try:
        connection.execute(_DROP_INDEX)
        connection.execute(text("VACUUM (FULL) face_vectors"))
    finally:
        _unlock(connection)
    return True


def restore_index(connection: Connection, engine: Engine) -> None:
    """Start building the index in a background thread, if there is none."""
    if connection.scalar(_LACKS_INDEX):
        Thread(target=build_index, args=(engine,), name="vector index", daemon=True).start()


def build_index(engine: Engine) -> None:
    """Build the index, unless it exists or another process does so; takes minutes.

    PostgreSQL goes on if this process ends. An index that was not completed is replaced.
    """
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if not _lock(connection):
                return
            try:
                _build(connection)
            finally:
                _unlock(connection)
    except SQLAlchemyError as error:
        log.warning("vector_index_not_built", error=type(error).__name__)


def _build(connection: Connection) -> None:
    if not connection.scalar(_LACKS_INDEX):
        return
    connection.execute(_DROP_INDEX)
    connection.execute(text(f"SET statement_timeout = '{_BUILD_SECONDS}s'"))
    connection.execute(text("SET lock_timeout = 0"))  # it waits for others' transactions
    allow_statements(connection, _BUILD_SECONDS)
    try:
        connection.execute(text(f"CREATE INDEX CONCURRENTLY {_INDEX}"))
    finally:
        connection.execute(text("RESET statement_timeout"))
        connection.execute(text("RESET lock_timeout"))


def _lock(connection: Connection) -> bool:
    return bool(connection.scalar(text(f"SELECT pg_try_advisory_lock({_LOCK})")))


def _unlock(connection: Connection) -> None:
    connection.execute(text(f"SELECT pg_advisory_unlock({_LOCK})"))
