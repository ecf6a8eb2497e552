"""Which home the service of this machine runs from, and at which port, for commands elsewhere.

The default home is `./var`, so a command in another folder than that of `opsin up` would use, and
even make, another one; and in another terminal it would ask another port. `opsin up` leaves a note
for its user, by port; a command that names no home or no port follows it.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from contracts.settings import Settings

_PRIVATE = 0o700
_SIGNS = ("opsin.db", "store", "weights", "datasets", "installation", "cli.key", "run/up.lock")


@dataclass(frozen=True, slots=True)
class Running:
    """A running `opsin up` of this user.

    Attributes:
        home: Its home, without links.
        host: The address that it listens on.
        port: Its port.
    """

    home: Path
    host: str
    port: int


@contextmanager
def noted(settings: Settings) -> Iterator[None]:
    """Leave the note while the block runs; where it cannot be written, commands need OPSIN_HOME."""
    file = _note(settings.port)
    home = os.fspath(settings.home.resolve())
    mine = {"home": home, "pid": os.getpid(), "host": settings.host}
    with suppress(OSError):
        file.parent.mkdir(mode=_PRIVATE, exist_ok=True)
        if _is_own(file.parent):
            draft = file.with_name(f"{file.name}.{os.getpid()}")
            draft.write_text(json.dumps(mine), encoding="utf-8")
            draft.replace(file)
    try:
        yield
    finally:
        if _read(file) == mine:
            with suppress(OSError):
                file.unlink()


def running_home(port: int) -> Path | None:
    """The home of this user's running `opsin up` at that port; None if there is none."""
    service = _running_at(port)
    return None if service is None else service.home


def running_services() -> list[Running]:
    """All running `opsin up` of this user, by port."""
    try:
        ports = sorted(int(file.stem) for file in _note(0).parent.glob("*.json"))
    except (OSError, ValueError):
        return []
    return [service for port in ports if (service := _running_at(port)) is not None]


def _running_at(port: int) -> Running | None:
    note = _read(_note(port))
    try:
        home, pid = Path(str(note["home"])), int(str(note["pid"]))
        # The lock file has the number while it runs; another process may have it after a crash.
        is_running = (home / "run/up.lock").read_text().strip() == str(pid) and _is_alive(pid)
    except (KeyError, ValueError, OSError):
        return None
    # A release before this one did not note the address.
    return Running(home, str(note.get("host", "127.0.0.1")), port) if is_running else None


def is_home(folder: Path) -> bool:
    """Whether an installation has used that folder."""
    return any((folder / sign).exists() for sign in _SIGNS)


def _is_alive(pid: int) -> bool:
    import psutil  # slow to load

    return bool(psutil.pid_exists(pid))


def _note(port: int) -> Path:
    return Path(tempfile.gettempdir(), f"opsin-{os.getuid()}", f"{port}.json")


def _is_own(folder: Path) -> bool:
    """Whether no other user can have put anything there."""
    status = folder.lstat()
    return not folder.is_symlink() and status.st_uid == os.getuid() and not status.st_mode & 0o077


def _read(file: Path) -> dict[str, object]:
    try:
        content = json.loads(file.read_text("utf-8")) if _is_own(file.parent) else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
