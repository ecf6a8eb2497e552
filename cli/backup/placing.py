"""Moves the unpacked files into the home: all of them or, after a crash, all a little later.

Everything is unpacked, compared and flushed in `$OPSIN_HOME/.restore/new` before anything moves.
Then the steps are written to a file, and from that moment the restore counts; each step is one or
two renames. If the process is killed in between, the file stays, and `finish` takes the remaining
steps. The previous content is moved aside, never removed. After the last step the folder is renamed
to `done`: while there is a `new` without that file, nothing has moved.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from cli.backup.contents import AREAS, SECRETS
from cli.backup.databases import dump, load_postgresql
from cli.backup.room import clear, give_back, make_room
from cli.backup.steps import RestoreStep, area_step, database_steps, fresh, near_name
from cli.output import CommandError, warn
from contracts.files import flush_entries
from contracts.settings import Settings
from database.installation import FILE as INSTALLATION
from database.migrations import current
from models.store.manifest import write_atomically

_FOLDER, _STEPS, _NEW, _DONE = ".restore", "steps.json", "new", "done"
NOTED = "restrictions.json"
"""What the database no longer allows; in the home until a restore is complete or discarded."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A finished restore.

    Attributes:
        backup: The sha256 of the backup's header, which identifies it.
        kept: The folders that now hold the previous content; empty if there was none.
    """

    backup: str
    kept: tuple[Path, ...]


def unpack_folder(home: Path) -> Path:
    """An empty folder to unpack into, on the file system of the home."""
    discard(home)
    new = home / _FOLDER / _NEW
    new.mkdir(mode=0o700, parents=True)
    return new


def discard(home: Path) -> bool:
    """Remove unpacked files that will not be placed, and their note; returns if there were any.

    The caller must hold the home exclusively: another restore may be unpacking.

    Raises:
        OSError: The note cannot be removed; nothing else was.
    """
    if not is_left_over(home):
        return False
    if _is_unplaced(home):
        (home / NOTED).unlink(missing_ok=True)
        flush_entries(home)
    shutil.rmtree(home / _FOLDER, ignore_errors=True)
    return True


def is_interrupted(home: Path) -> bool:
    """Whether a restore was killed while it moved files."""
    return (home / _FOLDER / _STEPS).exists()


def is_incomplete(home: Path) -> bool:
    """Whether a restore was killed before it repeated what its database does not know."""
    return (home / NOTED).exists() and not _is_unplaced(home)


def is_left_over(home: Path) -> bool:
    """Whether a restore is unpacking, or was killed while it did."""
    return (home / _FOLDER).is_dir() and not is_interrupted(home)


def _is_unplaced(home: Path) -> bool:
    """Whether a backup is unpacked of which nothing was moved."""
    return (home / _FOLDER / _NEW).is_dir() and not is_interrupted(home)


def place(
    home: Path,
    backup: str,
    database: tuple[Path | None, Path] | None = None,
    *,
    postgresql: tuple[Settings, Path] | None = None,
    revision: str | None = None,
) -> Placed:
    """Move the unpacked files into the home.

    Args:
        home: Prepared and locked.
        backup: The sha256 of the backup's header.
        database: The unpacked SQLite file, if there is one, and its target; None if the database
            is not a file.
        postgresql: The unpacked dump of PostgreSQL, if the backup has one, and the settings with
            the database's address. Its present tables are dumped first, next to the areas.
        revision: Of the dump's tables.

    Raises:
        CommandError: An area cannot be renamed or the tables not replaced, and nothing has changed.
            Or as `finish`.
    """
    new, old = home / _FOLDER / _NEW, home / _FOLDER / "old"
    old.mkdir(mode=0o700)
    areas = (*AREAS, "valkey", *((SECRETS,) if (new / SECRETS).exists() else ()))
    steps = [area_step(new / area, home / area, old / area) for area in areas]
    if database is not None or postgresql is not None:
        # The next start takes over the id of the restored database.
        steps.append(RestoreStep("", str(home / INSTALLATION), str(old / INSTALLATION), until=""))
    if database is not None:
        steps += database_steps(*database, old)
    record: dict[str, object] = {"backup": backup, "steps": [asdict(step) for step in steps]}
    if postgresql is not None:
        settings, path = postgresql
        present = current(settings.database)
        if present is not None:
            dump(settings, old)
        record |= {"postgresql": str(path), "makes_room": present not in {None, revision}}
    try:
        write_atomically(home / _FOLDER / _STEPS, json.dumps(record))
    except OSError:
        if database is not None:
            near_name(database[1].resolve()).unlink(missing_ok=True)
        raise
    placed = finish(home, postgresql[0] if postgresql is not None else None, is_first=True)
    assert placed is not None, "its steps have just been written"  # noqa: S101
    return placed


def require_whole(home: Path) -> None:
    """Check that the home is not a mixture of two.

    Raises:
        CommandError: A restore was killed before it was complete.
    """
    if is_interrupted(home) or is_incomplete(home):
        raise CommandError(
            "A restore of this home was interrupted. Run `opsin restore` with the same backup "
            "again, or `opsin up`: either finishes it first."
        )


def finish(
    home: Path, settings: Settings | None = None, *, is_first: bool = False
) -> Placed | None:
    """Take the remaining steps; see `place`. None if there are none.

    Args:
        settings: With the address of PostgreSQL, if that is the database.
        is_first: Whether no step has been taken; then a failure of PostgreSQL ends the restore.

    Raises:
        CommandError: A step cannot be taken; it may be tried again.
    """
    if not is_interrupted(home):
        return None
    folder = home / _FOLDER
    record = json.loads((folder / _STEPS).read_bytes())
    steps = [RestoreStep(**fields) for fields in record["steps"]]
    if "postgresql" in record:
        path, makes_room = Path(record["postgresql"]), record.get("makes_room", False)
        _replace_tables(folder, path, settings, is_first=is_first, makes_room=makes_room)
    try:
        for step in steps:
            step.take()
        for step in steps:
            step.flush()
        kept = _kept(home, steps)
        if (folder / _NEW).exists():
            (folder / _NEW).rename(folder / _DONE)
            flush_entries(folder)
        (folder / _STEPS).unlink()
        flush_entries(folder)
    except OSError as error:
        raise CommandError(
            f"A restore of {home} has begun and cannot be finished: {error.filename or folder} "
            f"({error.strerror}). Correct that; `opsin up` and `opsin restore` then continue it."
        ) from None
    shutil.rmtree(folder, ignore_errors=True)
    return Placed(record["backup"], kept)


def _replace_tables(
    folder: Path, dumped: Path, settings: Settings | None, *, is_first: bool, makes_room: bool
) -> None:
    """Replace the tables unless that was done: the dump is removed afterwards.

    If the process is killed in between, the same tables are loaded again.
    """
    if not dumped.exists():
        return
    if settings is None:
        raise CommandError("A restore of PostgreSQL was interrupted; `opsin restore` finishes it.")
    moved = False
    try:
        if makes_room:
            make_room(settings)
            moved = True
        load_postgresql(settings, dumped)
    except Exception:
        if is_first:
            if moved:
                give_back(settings)
            (folder / _STEPS).unlink()
        raise
    if makes_room:
        clear(settings)
    dumped.unlink()
    flush_entries(dumped.parent)


def _kept(home: Path, steps: list[RestoreStep]) -> tuple[Path, ...]:
    """Give the previous content its final name."""
    kept = []
    for aside in dict.fromkeys(Path(step.old).parent for step in steps):
        if aside.is_dir() and any(aside.iterdir()):
            ours = aside.parent == home / _FOLDER
            kept.append(aside.rename(fresh(home, "replaced")) if ours else aside)
    flush_entries(home)
    return tuple(kept)


def report_kept(placed: Placed | None, console: Console) -> None:
    """Print where the previous content is, if there was any."""
    for folder in placed.kept if placed is not None else ():
        warn(console, f"The previous content is in {folder}; remove it when you no longer need it.")
