"""What is Opsin's in a PostgreSQL database and its dumps: other applications may use it too."""

import re

from sqlalchemy import Connection, inspect, text

from cli.output import CommandError
from contracts.settings import Settings
from database.engine import open_engine, reading
from database.migrations import current, is_known
from database.tables import Record

VERSION = "alembic_version"
OWN = frozenset({*Record.metadata.tables, VERSION})
VECTORS = frozenset({"face_vectors", "face_vectors_state"})
"""The index of pgvector. It is in no backup: the next search fills it from the templates."""

_KINDS = (
    *("TABLE DATA", "SEQUENCE", "SEQUENCE OWNED BY", "SEQUENCE SET"),
    *("DEFAULT", "CONSTRAINT", "FK CONSTRAINT", "INDEX"),
)
"""What a table consists of, in the words of `pg_restore --list`."""
_ENTRY = re.compile(r"(\d+); \d+ \d+ (.+)")
_NEEDS = re.compile(r";\s+depends on:(.+)")


def present(connection: Connection) -> set[str]:
    """Our tables in the current schema."""
    return set(inspect(connection).get_table_names()) & (OWN | VECTORS)


def found(settings: Settings) -> tuple[str | None, set[str]]:
    """The current schema, None if that of the search path does not exist, and our tables in it.

    Raises:
        Unavailable: The database does not answer.
    """
    engine = open_engine(settings.database)
    try:
        with reading(engine) as session:
            schema: str | None = session.scalar(text("SELECT current_schema()"))
            return schema, present(session.connection())
    finally:
        engine.dispose()


def selection(settings: Settings) -> list[str]:
    """The options of `pg_dump` for our tables.

    Raises:
        Unavailable: The database does not answer.
    """
    revision = current(settings.database)
    if revision is None:
        return ["--schema-only", "--exclude-schema=*"]
    schema, names = found(settings)
    quoted = '"{}"'.format((schema or "").replace('"', '""'))
    if not is_known(revision):
        return [f"--schema={quoted}"]  # a later release has tables that this one does not know
    return [f'--table={quoted}."{name}"' for name in sorted(names - VECTORS)]


def own_entries(listing: str, schema: str | None) -> list[str]:
    """The numbers of our entries in a dump, which may be of a whole database.

    Args:
        listing: By `pg_restore --list --verbose`.
        schema: Where our tables belong.

    Raises:
        CommandError: Our tables are in another schema of the dump.
    """
    tables = tuple(f"TABLE {schema} {name} " for name in OWN)
    parts = tuple(f"{kind} {schema} " for kind in _KINDS)
    own: list[str] = []
    known: set[str] = set()
    has_version = False
    number = what = ""
    for line in listing.split("\n"):  # what an entry needs comes before it
        if entry := _ENTRY.fullmatch(line):
            number, what = entry.groups()
            if what.startswith(f"SCHEMA - {schema} "):
                known.add(number)
        needed = _NEEDS.fullmatch(line)
        is_part = needed and what.startswith(parts) and known.issuperset(needed[1].split())
        if (entry and what.startswith(tables)) or is_part:
            own.append(number)
            known.add(number)
            has_version |= what.startswith(f"TABLE DATA {schema} {VERSION} ")
    if not has_version and f" {VERSION} " in listing:
        raise CommandError(
            f"The backup's tables are not in the schema {schema}, the current one of the database. "
            "Set the `search_path` of its user to theirs, and create that if it is missing."
        )
    return own
