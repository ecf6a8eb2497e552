"""Puts what was unpacked in its place: all of it or, after a crash, all of it a little later.

Everything lies unpacked, compared and flushed in `$OPSIN_HOME/.restore/new` before the first thing
moves. Then the steps are written down, which is the moment from which the restore counts; each is
one or two renames. Whoever is killed in between leaves the list behind, and `finish` goes on from
where it stands. What was there before is moved aside, never removed.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from cli.backup.contents import AREAS, SECRETS
from cli.backup.steps import Step, area_step, database_steps, fresh, near_name
from cli.output import CommandError, warn
from models.store.manifest import write_atomically
from models.store.staging import flush_entries

_FOLDER, _STEPS = ".restore", "steps.json"


@dataclass(frozen=True, slots=True)
class Placed:
    """A restore that has come to its end.

    Attributes:
        backup: Which one's; see `cli.backup.contents.Header`.
        kept: The folders in which what was there before is now; none if there was nothing.
    """

    backup: str
    kept: tuple[Path, ...]


def workshop(home: Path) -> Path:
    """An empty folder to unpack into, on the file system of the home."""
    folder = home / _FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "new").mkdir(mode=0o700, parents=True)
    return folder / "new"


def dismiss(home: Path) -> bool:
    """Remove what was unpacked and is not to be placed; says whether there was anything.

    Only for who has the home alone: another's restore may be unpacking.
    """
    if is_interrupted(home) or not is_left_over(home):
        return False
    shutil.rmtree(home / _FOLDER, ignore_errors=True)
    return True


def is_interrupted(home: Path) -> bool:
    """Whether a restore was killed as it moved things in."""
    return (home / _FOLDER / _STEPS).exists()


def is_left_over(home: Path) -> bool:
    """Whether a restore is unpacking, or was killed as it did."""
    return (home / _FOLDER).is_dir() and not is_interrupted(home)


def place(home: Path, backup: str, database: tuple[Path | None, Path] | None = None) -> Placed:
    """Let what was unpacked take its place.

    Args:
        home: Prepared and locked.
        backup: Which one it is, for whoever has to finish.
        database: The unpacked SQLite file, if there is one, and where it belongs; None where the
            database is no file.

    Raises:
        CommandError: An area cannot be renamed; nothing was moved. Or as `finish`.
    """
    new, old = home / _FOLDER / "new", home / _FOLDER / "old"
    old.mkdir(mode=0o700)
    areas = (*AREAS, "valkey", *((SECRETS,) if (new / SECRETS).exists() else ()))
    steps = [area_step(new / area, home / area, old / area) for area in areas]
    if database is not None:
        steps += database_steps(*database, old)
    told = {"backup": backup, "steps": [asdict(step) for step in steps]}
    try:
        write_atomically(home / _FOLDER / _STEPS, json.dumps(told))
    except OSError:
        if database is not None:
            near_name(database[1].resolve()).unlink(missing_ok=True)
        raise
    placed = finish(home)
    assert placed is not None, "it has just been written down"  # noqa: S101
    return placed


def require_whole(home: Path) -> None:
    """Checks that the home is not half one and half another.

    Raises:
        CommandError: A restore was killed as it moved things in.
    """
    if is_interrupted(home):
        raise CommandError(
            "A restore of this home was cut short. Run `opsin restore` with the same backup again, "
            "or `opsin up`: either finishes it first."
        )


def finish(home: Path) -> Placed | None:
    """Take the steps that are left; see `place`. Nothing happens where none are.

    Raises:
        CommandError: A step cannot be taken; it is as before, and may be tried again.
    """
    if not is_interrupted(home):
        return None
    folder = home / _FOLDER
    told = json.loads((folder / _STEPS).read_bytes())
    steps = [Step(**one) for one in told["steps"]]
    try:
        for step in steps:
            step.take()
        for step in steps:
            step.flush()
        kept = _kept(home, steps)
        (folder / _STEPS).unlink()
        flush_entries(folder)
    except OSError as error:
        raise CommandError(
            f"A restore of {home} is begun and cannot be finished: {error.filename or folder} "
            f"({error.strerror}). Mend that; `opsin up` and `opsin restore` then go on with it."
        ) from None
    shutil.rmtree(folder, ignore_errors=True)
    return Placed(told["backup"], kept)


def _kept(home: Path, steps: list[Step]) -> tuple[Path, ...]:
    """Give what was moved aside a name for good."""
    kept = []
    for aside in dict.fromkeys(Path(step.old).parent for step in steps):
        if aside.is_dir() and any(aside.iterdir()):
            ours = aside.parent == home / _FOLDER
            kept.append(aside.rename(fresh(home, "replaced")) if ours else aside)
    flush_entries(home)
    return tuple(kept)


def report_kept(placed: Placed | None, console: Console) -> None:
    """Say where what was there before is, if there was anything."""
    for folder in placed.kept if placed is not None else ():
        warn(console, f"What was there before is in {folder}; remove it when nobody misses it.")
