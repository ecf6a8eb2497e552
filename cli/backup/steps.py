"""The moves of a restore, each so that it may be tried again by whoever finds it half done.

A restore is a list of these, written down before the first is taken. What has to make room is moved
aside under a name that nothing has, so neither a second restore nor a second try overwrites it.
"""

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cli.output import CommandError
from models.store.staging import flush_entries

_SIDES = ("-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that moves in, and what has to make room for it.

    Attributes:
        new: What comes; it is gone when it has come. Empty: nothing comes.
        place: Where it belongs.
        old: Where what is there now goes; its folder is made when it is needed.
        until: Once this is gone the step is past. Empty: that cannot be told.
    """

    new: str
    place: str
    old: str
    until: str

    def take(self) -> None:
        """Do it, or what is left of it.

        Raises:
            OSError: It cannot be done; it may be tried again.
        """
        here, old = Path(self.place), Path(self.old)
        if self.until and not Path(self.until).exists():
            return
        if not here.is_symlink() and here.is_dir() and all(map(_is_draft, here.iterdir())):
            shutil.rmtree(here)  # locks and the like: nothing that anybody could miss
        elif os.path.lexists(here):
            old.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            here.rename(_free(old))
        if self.new:
            here.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            Path(self.new).rename(here)

    def flush(self) -> None:
        """Force the names that it changed to the disk."""
        for folder in (Path(self.place).parent, Path(self.old).parent):
            if folder.is_dir():
                flush_entries(folder)


def area_step(new: Path, place: Path, old: Path) -> Step:
    """An area of the home; the backup may have none.

    Raises:
        CommandError: It cannot be renamed.
    """
    _require_movable(place)
    come = str(new) if new.exists() else ""
    return Step(come, str(place), str(old), until=come)


def database_steps(new: Path | None, target: Path, old: Path) -> list[Step]:
    """The journal goes before its database: replayed onto another, it would spoil it.

    Args:
        new: The unpacked file; None if the backup has none. On another file system than `target`
            it is copied there first.
        target: Where the settings say that it is.
        old: The folder for what was there; on another file system, one beside the database is
            taken instead.

    Raises:
        CommandError: What is there is no file.
        OSError: The disk does not take the copy; nothing is left of it.
    """
    target = target.resolve()
    if target.is_dir() or os.path.ismount(target):
        raise CommandError(f"{target} is a folder or a mount, and can be no database.")
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if old.stat().st_dev != target.parent.stat().st_dev:
        old = fresh(target.parent, f"{target.name}.replaced")
        new = _near(new, target) if new is not None else None
    come = str(new or "")
    sides = [target.with_name(target.name + end) for end in _SIDES]
    return [
        *(Step("", str(side), str(old / side.name), until=come) for side in sides),
        Step(come, str(target), str(old / target.name), until=come),
    ]


def fresh(parent: Path, what: str) -> Path:
    """A name with the time in it that nothing in `parent` has."""
    return _free(parent / f"{what}-{datetime.now(UTC):%Y%m%d-%H%M%S}")


def near_name(target: Path) -> Path:
    """Where a database waits on its own file system before it takes its place."""
    return target.with_name(f".{target.name}.restored")


def _near(new: Path, target: Path) -> Path:
    near = near_name(target)
    near.unlink(missing_ok=True)  # of a restore that was killed before it counted
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
