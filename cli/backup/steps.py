"""The moves of a restore; each may be repeated if it was interrupted.

A restore is a list of steps, written to a file before the first is taken. Previous content is moved
aside under an unused name, so neither a second restore nor a second try overwrites it.
"""

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cli.output import CommandError
from contracts.files import flush_entries

_SIDES = ("-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class RestoreStep:
    """A move of new content into the home, and of the previous content out of it.

    Attributes:
        new: The path of the new content, which does not exist after the step. Empty for none.
        place: Its target.
        old: Where the previous content goes; the folder is created when it is needed.
        until: The step is done if this does not exist. Empty if unknown.
    """

    new: str
    place: str
    old: str
    until: str

    def take(self) -> None:
        """Move, or finish an interrupted move.

        Raises:
            OSError: It failed; it may be tried again.
        """
        here, old = Path(self.place), Path(self.old)
        if self.until and not Path(self.until).exists():
            return
        if not here.is_symlink() and here.is_dir() and all(map(_is_draft, here.iterdir())):
            shutil.rmtree(here)  # nothing but locks and the like
        elif os.path.lexists(here):
            old.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            here.rename(_free(old))
        if self.new:
            here.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            Path(self.new).rename(here)

    def flush(self) -> None:
        """Flush the changed names to the disk."""
        for folder in (Path(self.place).parent, Path(self.old).parent):
            if folder.is_dir():
                flush_entries(folder)


def area_step(new: Path, place: Path, old: Path) -> RestoreStep:
    """The step for an area of the home; the backup may not have it.

    Raises:
        CommandError: The area cannot be renamed.
    """
    _require_movable(place)
    source = str(new) if new.exists() else ""
    return RestoreStep(source, str(place), str(old), until=source)


def database_steps(new: Path | None, target: Path, old: Path) -> list[RestoreStep]:
    """The steps for SQLite. The journal is moved first: applied to another database, it damages it.

    Args:
        new: The unpacked file; None if the backup has none. If it is not on the file system of
            `target`, it is copied there first.
        target: The path from the settings.
        old: The folder for the previous files; on another file system, a folder next to the
            database is used instead.

    Raises:
        CommandError: `target` is not a file.
        OSError: The copy cannot be written; nothing is left of it.
    """
    target = target.resolve()
    if target.is_dir() or os.path.ismount(target):
        raise CommandError(f"{target} is a folder or a mount, not a database file.")
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if old.stat().st_dev != target.parent.stat().st_dev:
        old = fresh(target.parent, f"{target.name}.replaced")
        new = _near(new, target) if new is not None else None
    source = str(new or "")
    sides = [target.with_name(target.name + end) for end in _SIDES]
    return [
        *(RestoreStep("", str(side), str(old / side.name), until=source) for side in sides),
        RestoreStep(source, str(target), str(old / target.name), until=source),
    ]


def fresh(parent: Path, what: str) -> Path:
    """An unused name in `parent` that contains the time."""
    return _free(parent / f"{what}-{datetime.now(UTC):%Y%m%d-%H%M%S}")


def near_name(target: Path) -> Path:
    """Where a database is copied to on its own file system before it is renamed."""
    return target.with_name(f".{target.name}.restored")


def _near(new: Path, target: Path) -> Path:
    near = near_name(target)
    near.unlink(missing_ok=True)  # of a restore that was killed before its steps were written
    try:
        near.touch(mode=0o600, exist_ok=False)
        shutil.copyfile(new, near)
        flush_entries(near)
        flush_entries(near.parent)
    except OSError:
        near.unlink(missing_ok=True)
        raise
    return near


def _free(path: Path) -> Path:
    number, name = 1, path
    while os.path.lexists(name):
        number += 1
        name = path.with_name(f"{path.name}-{number}")
    return name


def _is_draft(path: Path) -> bool:
    return path.name.startswith(".")


def _require_movable(area: Path) -> None:
    if area.is_symlink():
        raise CommandError(
            f"{area} is a symbolic link, so that it cannot be replaced in one step. Restore into "
            "another OPSIN_HOME, and copy the folder to where the link leads."
        )
    if area.exists() and (os.path.ismount(area) or _device(area) != _device(area.parent)):
        raise CommandError(
            f"{area} is a file system of its own, so that it cannot be replaced in one step. "
            "Restore into another OPSIN_HOME and copy the folder from there."
        )


def _device(path: Path) -> int:
    return path.stat().st_dev
