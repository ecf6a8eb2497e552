"""Takes back again, after a restore, what was taken back since the backup.

Noted in a file of the home before anything is replaced, and removed when everything is repeated: if
the process is killed in between, the file says that this is still to be done.
"""

from contextlib import suppress
from datetime import UTC, datetime

from pydantic import ValidationError
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from cli.backup.erasures import repeat_erasures
from cli.backup.placing import NOTED
from cli.output import CommandError, warn
from cli.startup import migrate
from contracts.settings import Settings
from database import restrictions
from database.engine import open_engine
from database.migrations import current
from database.restrictions import Restrictions
from models.store.manifest import write_atomically


def note_restrictions(settings: Settings) -> None:
    """Note those of the database that is about to be replaced, if there is one.

    Raises:
        Unavailable: The database does not answer.
        OSError: They cannot be written.
    """
    found = Restrictions()
    if current(settings.database) is not None:
        engine = open_engine(settings.database)
        try:
            with suppress(SQLAlchemyError):  # tables of another release
                found = restrictions.restrictions_of(engine)
        finally:
            engine.dispose()
    write_atomically(settings.home / NOTED, found.model_dump_json())


def forget_restrictions(settings: Settings) -> None:
    """Remove the note: nothing was replaced, or all of it is repeated."""
    (settings.home / NOTED).unlink(missing_ok=True)


def complete_restore(settings: Settings, console: Console) -> None:
    """Migrate the restored database, and repeat erasures and restrictions that it does not know.

    Raises:
        CommandError: The tables cannot be migrated, or the note cannot be read.
        Unavailable: The database does not answer.
    """
    if current(settings.database) is not None:
        migrate(settings)
        if count := repeat_erasures(settings):
            warn(console, f"{count} subjects that were erased since are erased again.")
        if count := _repeat(settings):
            warn(
                console,
                f"{count} keys, devices and consents that were revoked or withdrawn since, and "
                "faces that were disabled, are so again. `GET /v1/audit` lists them.",
            )
    forget_restrictions(settings)


def _repeat(settings: Settings) -> int:
    path = settings.home / NOTED
    if not path.exists():
        return 0
    try:
        noted = Restrictions.model_validate_json(path.read_bytes())
    except ValidationError:
        raise CommandError(
            f"{path} is damaged. It says which keys were revoked since the backup: revoke them "
            "again (`opsin keys list`), and then remove it."
        ) from None
    engine = open_engine(settings.database)
    try:
        return restrictions.repeat(engine, noted, lambda: datetime.now(UTC))
    finally:
        engine.dispose()
