"""Makes room in PostgreSQL for the tables of a backup of another revision.

`pg_restore --clean` drops only what the backup knows. A table that was added since would stay: if
it refers to one that has to be dropped, nothing can be restored, and otherwise the next migration
finds it there already. So all present tables are moved into a schema of their own first, and that
is dropped once the backup's tables are there, or moved back if they cannot be loaded.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateSchema, DropSchema

from cli.output import CommandError
from contracts.errors import OpsinError
from contracts.settings import Settings
from database.engine import open_engine, writing
from database.tables import Record

_ASIDE = "opsin_replaced"
_VERSION = "alembic_version"


def make_room(settings: Settings) -> None:
    """Move the present tables aside, all or none; nothing happens if that was done.

    Raises:
        CommandError: They cannot be moved; they have not changed.
    """
    refusal = (
        "The database's present tables cannot be moved aside: {}. Nothing was restored. Stop every "
        "process that uses the database, and see that its user may create schemas in it; or set "
        "OPSIN_DATABASE_URL to an empty database."
    )
    with _transaction(settings, refusal) as connection:
        if inspect(connection).has_schema(_ASIDE):
            return
        tables = _present(connection)
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


def _present(connection: Connection) -> set[str]:
    """Our tables, and those that refer to them, which a later release may have added."""
    seen = inspect(connection)
    ours = {*Record.metadata.tables, _VERSION} & set(seen.get_table_names())
    refers = {
        table: {key["referred_table"] for key in keys if key["referred_schema"] is None}
        for (_, table), keys in seen.get_multi_foreign_keys().items()
    }
    while more := {table for table in refers if table not in ours and refers[table] & ours}:
        ours |= more
    return ours


def _move(connection: Connection, tables: Iterable[str], to: str, *, of: str | None = None) -> None:
    quote = connection.dialect.identifier_preparer.quote
    for table in sorted(tables):
        name = quote(table) if of is None else f"{quote(of)}.{quote(table)}"
        connection.execute(text(f"ALTER TABLE {name} SET SCHEMA {quote(to)}"))


def _reason(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0].rstrip(".")
