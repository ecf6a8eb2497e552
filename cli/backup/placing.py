"""Puts what was unpacked in its place: all of it or, after a crash, all of it a little later.

Everything lies unpacked, compared and flushed in `$OPSIN_HOME/.restore/new` before the first thing
moves. Then the steps are written down, which is the moment from which the restore counts; each is
one or two renames. Whoever is killed in between leaves the list behind, and `finish` goes on from
where it stands. What was there before is moved aside, never removed.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cli.backup.contents import AREAS, SECRETS
from cli.failure import CommandError
from models.manifest import write_atomically
from models.staging import flush_entries

_FOLDER, _STEPS = ".restore", "steps.json"


@dataclass(frozen=True, slots=True)
class _Step:
    """One thing that moves in, and what has to make room for it.

    Attributes:
        new: What comes; it is gone when it has come. Empty: nothing comes.
        place: Where it belongs.
        old: Where what is there now goes.
    """

    new: str
    place: str
    old: str


def workshop(home: Path) -> Path:
    """An empty folder to unpack into, on the file system of the home."""
    folder = home / _FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "new").mkdir(mode=0o700, parents=True)
    return folder / "new"


def dismiss(home: Path) -> None:
    """Remove what was unpacked and is not to be placed."""
    if not is_interrupted(home):
        shutil.rmtree(home / _FOLDER, ignore_errors=True)


def is_interrupted(home: Path) -> bool:
    """Whether a restore was killed as it moved things in."""
    return (home / _FOLDER / _STEPS).exists()


def place(home: Path, database: tuple[Path | None, Path] | None = None) -> Path | None:
    """Let what was unpacked take its place.

    Args:
        home: Prepared and locked.
        database: The unpacked SQLite file, if there is one, and where it belongs; None where the
            database is no file.

    Returns:
        Where what was there before is now; None if there was nothing.

    Raises:
        CommandError: An area is a file system of its own, and cannot be renamed.
    """
    new, old = home / _FOLDER / "new", home / _FOLDER / "old"
    old.mkdir(mode=0o700)
    steps = [
        _Step(str(new / area) if (new / area).exists() else "", str(home / area), str(old / area))
        for area in (*AREAS, "valkey", *((SECRETS,) if (new / SECRETS).exists() else ()))
    ]
    for step in steps:
        _require_movable(Path(step.place), home)
    if database is not None:
        steps += _database_steps(*database, old)
    write_atomically(home / _FOLDER / _STEPS, json.dumps([asdict(step) for step in steps]))
    return finish(home)


def finish(home: Path) -> Path | None:
    """Take the steps that are left; see `place`. Nothing happens where none are."""
    if not is_interrupted(home):
        return None
    folder = home / _FOLDER
    (folder / "old").mkdir(mode=0o700, exist_ok=True)
    for told in json.loads((folder / _STEPS).read_bytes()):
        _take(_Step(**told))
    kept = None
    if any((folder / "old").iterdir()):
        kept = home / f"replaced-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        (folder / "old").rename(kept)
    (folder / _STEPS).unlink()
    flush_entries(home)
    shutil.rmtree(folder)
    return kept


def _database_steps(new: Path | None, target: Path, old: Path) -> list[_Step]:
    """The journal goes before its database: replayed onto another, it would spoil it."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if old.stat().st_dev != target.parent.stat().st_dev:
        old = target.parent / f"{target.name}.replaced"
        old.mkdir(mode=0o700, exist_ok=True)
        if new is not None:
            near = target.with_name(f".{target.name}.restored")
            shutil.copyfile(new, near)
            new = near
    sides = [target.with_name(target.name + end) for end in ("-wal", "-shm")]
    steps = [_Step("", str(side), str(old / side.name)) for side in sides]
    return [*steps, _Step(str(new or ""), str(target), str(old / target.name))]


def _take(step: _Step) -> None:
    new, here, old = Path(step.new), Path(step.place), Path(step.old)
    if step.new and not new.exists():
        return  # it was taken before
    if here.is_dir() and all(one.name.startswith(".") for one in here.iterdir()):
        shutil.rmtree(here)  # locks and the like: nothing that anybody could miss
    elif here.exists() and not old.exists():
        here.rename(old)
    if step.new:
        here.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.rename(here)


def _require_movable(area: Path, home: Path) -> None:
    if area.exists() and (os.path.ismount(area) or area.stat().st_dev != home.stat().st_dev):
        raise CommandError(
            f"{area} is a file system of its own, so that it cannot be replaced in one step. "
            "Restore into another OPSIN_HOME and copy the folder from there."
        )
