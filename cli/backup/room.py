"""Makes room in PostgreSQL for the tables of a backup of another revision.

`pg_restore --clean` drops only what the backup knows. A table that was added since would stay: if
it refers to one that has to be dropped, nothing can be restored, and otherwise the next migration
finds it there already. So all our present tables are moved into a schema of their own first, and
that is dropped once the backup's tables are there, or moved back if they cannot be loaded.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.schema import CreateSchema, DropSchema

from cli.backup.own_tables import VECTORS, VERSION, present
from cli.output import CommandError
from contracts.errors import OpsinError
from contracts.settings import Settings
from database.engine import open_engine, writing
from database.migrations import current, is_known

_ASIDE = "opsin_replaced"
_FIRST = frozenset({"jobs", "idempotency"})  # every release has them
_DEPENDENT = "2BP01"


def make_room(settings: Settings) -> None:
    """Move the present tables aside, all or none; nothing happens if that was done.

    Raises:
        CommandError: They cannot be moved; they have not changed.
        Unavailable: The database does not answer; they have not changed.
    """
    refusal = (
        "The database's present tables cannot be moved aside: {}. Nothing was restored. Stop every "
        "process that uses the database, and see that its user may create schemas in it; or set "
        "OPSIN_DATABASE_URL to an empty database."
    )
    revision = current(settings.database)
    is_later = revision is not None and not is_known(revision)
    with _transaction(settings, refusal) as connection:
        if inspect(connection).has_schema(_ASIDE):
            return
        tables = _with_later(connection) if is_later else present(connection)
        _require_alone(connection, tables)
        connection.execute(CreateSchema(_ASIDE))
        _move(connection, tables, _ASIDE)


def give_back(settings: Settings) -> None:
    """Move the tables back, since the backup's could not be loaded.

    Raises:
        CommandError: They cannot be moved; it may be tried again.
    """
    refusal = (
        "The backup's tables could not be loaded, and the previous ones are still in the schema "
        f"{_ASIDE} ({{}}). `opsin restore` with the same backup continues."
    )
    with _transaction(settings, refusal) as connection:
        here = connection.scalar(text("SELECT current_schema()"))
        _move(connection, inspect(connection).get_table_names(_ASIDE), here, of=_ASIDE)
        connection.execute(DropSchema(_ASIDE))


def clear(settings: Settings) -> None:
    """Drop the tables that were moved aside; their dump is with the rest of what was replaced.

    Raises:
        CommandError: They cannot be dropped; it may be tried again.
    """
    refusal = (
        f"The schema {_ASIDE} with the replaced tables cannot be dropped ({{}}). `opsin restore` "
        "with the same backup continues."
    )
    with _transaction(settings, refusal) as connection:
        connection.execute(DropSchema(_ASIDE, cascade=True, if_exists=True))


def drop_vectors(settings: Settings) -> None:
    """Drop the index of pgvector, which is in no backup and refers to tables that are replaced.

    Raises:
        CommandError: It cannot be dropped.
    """
    refusal = "The index of faces cannot be dropped: {}. Nothing was restored."
    with _transaction(settings, refusal) as connection:
        _drop(connection, present(connection) & VECTORS)


@contextmanager
def _transaction(settings: Settings, refusal: str) -> Iterator[Connection]:
    """A transaction. If it fails, the error is `refusal`, with the reason in place of `{}`."""
    engine = open_engine(settings.database)
    try:
        with writing(engine) as session:
            yield session.connection()
    except (SQLAlchemyError, OpsinError) as error:
        raise CommandError(refusal.format(_reason(error))) from None
    finally:
        engine.dispose()


def _with_later(connection: Connection) -> set[str]:
    """Our tables, and those that refer to them, which a later release may have added."""
    ours = present(connection)
    if not ours >= _FIRST:
        raise CommandError(
            "The database's tables are of another application, which also calls its revision "
            f"{VERSION}. Give Opsin another database, or a schema of its own. Nothing was restored."
        )
    seen = inspect(connection)
    refers = {
        table: {key["referred_table"] for key in keys if key["referred_schema"] is None}
        for (_, table), keys in seen.get_multi_foreign_keys().items()
    }
    while more := {table for table in refers if table not in ours and refers[table] & ours}:
        ours |= more
    return ours


def _require_alone(connection: Connection, tables: Iterable[str]) -> None:
    """Check that nothing else, such as another application's view, would be dropped with them."""
    try:
        with connection.begin_nested() as trial:
            _drop(connection, tables)
            trial.rollback()
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _DEPENDENT:
            raise
        lines = str(error.orig).splitlines()
        raise CommandError(
            f"Another application depends on Opsin's tables: {' '.join(lines[:2])}. Nothing was "
            "restored. Drop that first, or set OPSIN_DATABASE_URL to an empty database."
        ) from None


def _drop(connection: Connection, tables: Iterable[str]) -> None:
    quote = connection.dialect.identifier_preparer.quote
    if names := ", ".join(quote(table) for table in sorted(tables)):
        connection.execute(text(f"DROP TABLE {names}"))


def _move(connection: Connection, tables: Iterable[str], to: str, *, of: str | None = None) -> None:
    quote = connection.dialect.identifier_preparer.quote
    for table in sorted(tables):
        name = quote(table) if of is None else f"{quote(of)}.{quote(table)}"
        connection.execute(text(f"ALTER TABLE {name} SET SCHEMA {quote(to)}"))


def _reason(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0].rstrip(".")
