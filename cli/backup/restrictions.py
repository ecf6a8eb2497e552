"""Takes back again, after a restore, what was taken back since the backup.

Noted in a file of the home before anything is replaced, and removed when everything is repeated: if
the process is killed in between, the file says that this is still to be done. If nothing was
replaced, `cli.backup.placing` ignores and removes it. What earlier restores noted is in
`database.taken_back`.
"""

from datetime import UTC, datetime

from pydantic import ValidationError
from rich.console import Console
from sqlalchemy import Engine

from cli.backup.contents import Header
from cli.backup.deletions import drop_deleted_datasets, repeat_erasures
from cli.backup.placing import NOTED, is_incomplete
from cli.output import CommandError, errors, warn
from cli.startup import migrate
from contracts.settings import Settings
from database import restrictions
from database.engine import DamagedDatabaseError, open_engine
from database.faces.face_files import FaceFiles
from database.faces.privacy.erased_ids import FILE as ERASED_IDS
from database.faces.privacy.erased_ids import add_erased, erased_ids
from database.migrations import current, is_known
from database.restored import Kept, Restored, kept_since, mark, news
from database.restrictions import ERASED, KEYS, NOTHING_KNOWN, Restrictions
from database.taken_back import FILE as TAKEN_BACK
from database.taken_back import TakenBack, read_taken_back, write_taken_back
from models.store.manifest import write_atomically


def note_restrictions(settings: Settings, header: Header) -> None:
    """Note those of the database that is about to be replaced, and what cannot be read of them.

    Also what was deleted while the backup was taken.

    Args:
        header: Of the backup.

    Raises:
        CommandError: What earlier restores noted is damaged.
        Unavailable: The database does not answer, or the erasures cannot be listed.
        OSError: They cannot be written.
    """
    found, home = _found(settings), settings.home
    if (home / ERASED_IDS).exists():
        found = found.model_copy(update={"unread": [one for one in found.unread if one != ERASED]})
    # Those of this release are listed already; an earlier one recorded them in the database only.
    add_erased(home, found.erased)
    try:
        before = read_taken_back(home)
    except ValueError:
        raise CommandError(
            f"{home / TAKEN_BACK} is damaged: what was revoked, removed or withdrawn before an "
            "earlier restore could come back. Put a copy of it back. Without one, move it aside, "
            "restore again, and compare `opsin keys list` with what was revoked."
        ) from None
    kept = {} if found.unread else _kept_since(settings, before.restored)
    if (merged := before.merged(found, _now(), erased_ids(home), kept)) != before:
        write_taken_back(home, merged)
    of_backup = {
        "erased": header.erased,
        "lost_datasets": header.lost_datasets,
        "backup_at": header.created_at.astimezone(UTC),
    }
    write_atomically(home / NOTED, news(found, kept).model_copy(update=of_backup).model_dump_json())


def _found(settings: Settings) -> Restrictions:
    try:
        revision = current(settings.database)
    except DamagedDatabaseError:
        return NOTHING_KNOWN
    if revision is None:
        return NOTHING_KNOWN
    engine = open_engine(settings.database)
    try:
        return restrictions.restrictions_of(engine, is_known=is_known(revision))
    finally:
        engine.dispose()


def _kept_since(settings: Settings, restored: Restored | None) -> dict[str, Kept]:
    engine = open_engine(settings.database)
    try:
        return kept_since(engine, restored)
    finally:
        engine.dispose()


def complete_restore(settings: Settings, console: Console) -> None:
    """Migrate the restored database, and repeat erasures and restrictions that it does not know.

    Raises:
        CommandError: The tables cannot be migrated.
        Unavailable: The database does not answer.
    """
    if current(settings.database) is not None:
        migrate(settings, is_restored=True)
        noted = _noted(settings)
        if count := repeat_erasures(settings, noted.erased if noted is not None else ()):
            warn(console, f"{count} subjects that were erased since are erased again.")
        if noted is not None:
            drop_deleted_datasets(settings, noted.lost_datasets)
            _repeat(settings, noted, console)
            _mark(settings, noted.backup_at)
    (settings.home / NOTED).unlink(missing_ok=True)


def _noted(settings: Settings) -> Restrictions | None:
    if not is_incomplete(settings.home):
        return None
    try:
        return Restrictions.model_validate_json((settings.home / NOTED).read_bytes())
    except ValidationError:
        return NOTHING_KNOWN  # no command revokes a key until the restore is complete


def _repeat(settings: Settings, noted: Restrictions, console: Console) -> None:
    try:
        taken_back = read_taken_back(settings.home)
    except ValueError:
        taken_back, noted = TakenBack(), noted.model_copy(update={"unread": NOTHING_KNOWN.unread})
    engine = open_engine(settings.database)
    try:
        count = restrictions.repeat(engine, noted, _now)
        earlier = taken_back.applying_to(engine, noted.token_keys)
        count += restrictions.repeat(engine, earlier, _now)
        if count:
            warn(
                console,
                f"{count} keys, devices and consents that were revoked or withdrawn since, and "
                "faces that were disabled, are so again. `GET /v1/audit` lists them.",
            )
        for one in (noted, earlier):
            _tighten(settings, engine, one, console)
        unread = restrictions.unrepeated(engine, noted.unread)
    finally:
        engine.dispose()
    if unread:
        # An error, as `--quiet` suppresses notes.
        warn(errors(), _not_known(unread))


def _mark(settings: Settings, backup_at: datetime | None) -> None:
    """Keep what the next restore compares this database with."""
    try:
        taken_back = read_taken_back(settings.home)
    except ValueError:
        return  # the next restore says so
    engine = open_engine(settings.database)
    try:
        restored = None if backup_at is None else mark(engine, backup_at, _now)
    finally:
        engine.dispose()
    if restored is not None and not restored.people:
        restored = None  # without people there is nothing to compare
    if restored != taken_back.restored:
        write_taken_back(settings.home, taken_back.model_copy(update={"restored": restored}))


def _tighten(settings: Settings, engine: Engine, noted: Restrictions, console: Console) -> None:
    tightened = restrictions.tighten(engine, noted, _now)
    files = FaceFiles(settings.faces_home)
    for subject_id in tightened.frameless:
        files.remove_all(subject_id)
    if tightened.settings:
        warn(
            console,
            "What was set for faces is stricter than in the backup or not set there, and stays: "
            f"{', '.join(tightened.settings)}.",
        )
    if tightened.frames:
        warn(
            console,
            f"The frames of people with keep_frames false are deleted again: {tightened.frames}.",
        )
    if (threshold := tightened.incomparable) is not None:
        warn(
            errors(),
            f"The threshold that was set since, {threshold.similarity:g}, is of another embedder "
            f"({threshold.embedder}) than the backup's, so that they cannot be compared. It is not "
            "in force: see `GET /v1/faces/threshold`, and set it again.",
        )


def _not_known(unread: list[str]) -> str:
    text = (
        "There was no database here before, or not all of it can be read. What was revoked, "
        "removed, withdrawn or erased since the backup may be back: "
        f"{', '.join(unread)}. Do that again."
    )
    if KEYS in unread:
        text += " `opsin keys list` shows which keys work; `opsin keys revoke` ends one."
    return text


def _now() -> datetime:
    return datetime.now(UTC)
