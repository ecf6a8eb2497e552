"""The data home of one instance: its folders, who may read them, and the lock that makes it one."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.output import CommandError

PRIVATE = 0o700


@dataclass(frozen=True, slots=True)
class Home:
    """Where one instance keeps everything it writes."""

    root: Path

    @property
    def run(self) -> Path:
        """What lives only as long as the instance: lock, pid file, socket."""
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def valkey(self) -> Path:
        """The queue's append-only file."""
        return self.root / "valkey"

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    def prepare(self) -> None:
        """Makes the folders, for the owner's eyes only.

        Raises:
            CommandError: It is not a folder one may write to.
        """
        try:
            for folder in (self.root, self.run, self.logs, self.valkey):
                folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
            # It holds the database and whatever was sent: an older, open one is closed too.
            if self.root.stat().st_mode & 0o077:
                self.root.chmod(PRIVATE)
        except OSError as error:
            raise CommandError(
                f"Cannot write to {self.root} ({error.strerror}). "
                "Choose another data home: OPSIN_HOME=/path/to/folder."
            ) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the home for this process alone; the kernel lets go when the process ends.

        Raises:
            CommandError: Another `opsin up` runs from this home.
        """
        lock = os.open(self.run / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CommandError(self._taken(os.read(lock, 32))) from None
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            yield
            os.ftruncate(lock, 0)
        finally:
            os.close(lock)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Holds the home together with all others that work from it, and against a restore.

        Where this process may not write, it has nothing to hold, and a restore no right to move.

        Raises:
            CommandError: It is being restored.
        """
        with self._using(
            fcntl.LOCK_SH, f"A restore of {self.root} is under way. Wait for its end."
        ):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Holds the home against all that `shared` lets work from it.

        Raises:
            CommandError: Somebody does.
        """
        who = "`opsin serve`, `opsin worker` or `opsin backup`"
        with self._using(
            fcntl.LOCK_EX, f"Something works from {self.root}: {who}. Stop it, and try again."
        ):
            yield

    @contextmanager
    def _using(self, how: int, refusal: str) -> Iterator[None]:
        try:
            for folder in (self.root, self.run):
                folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
            lock = os.open(self.run / "use.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            if how == fcntl.LOCK_EX:
                raise
            yield
            return
        try:
            fcntl.flock(lock, how | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise CommandError(refusal) from None
        try:
            yield
        finally:
            os.close(lock)

    def _taken(self, content: bytes) -> str:
        pid = content.decode(errors="replace").strip() or "unknown"
        return (
            f"Opsin is already running from {self.root} (pid {pid}). Stop it with Ctrl-C in its "
            f"terminal or `kill {pid}`, or start another beside it from a home and a port of its "
            "own: `OPSIN_HOME=./var2 OPSIN_PORT=8001 make up`."
        )
