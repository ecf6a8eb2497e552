"""The data home of one instance: its folders, their permissions and its locks."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.output import CommandError
from models.locks import try_lock

PRIVATE = 0o700


@dataclass(frozen=True, slots=True)
class Home:
    """The folder for everything that one instance writes."""

    root: Path

    @property
    def run(self) -> Path:
        """Files that exist only while the instance runs: lock, pid file, socket."""
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
        """Create the folders, readable by their owner only.

        Raises:
            CommandError: They cannot be written to.
        """
        try:
            for folder in (self.root, self.run, self.logs, self.valkey):
                folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
            # It holds the database and all uploads: one that is open to others is closed too.
            if self.root.stat().st_mode & 0o077:
                self.root.chmod(PRIVATE)
        except OSError as error:
            raise CommandError(
                f"Cannot write to {self.root} ({error.strerror}). "
                "Choose another data home: OPSIN_HOME=/path/to/folder."
            ) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the home as its one instance; the kernel releases it when the process ends.

        Raises:
            CommandError: Another `opsin up` runs from this home.
        """
        lock = os.open(self.run / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not try_lock(lock):
                raise CommandError(self._already_running(os.read(lock, 32)))
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            yield
            os.ftruncate(lock, 0)
        finally:
            os.close(lock)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the home together with other processes that use it, so that none restores it.

        Where this process may not write there is nothing to hold, and nothing can be restored.

        Raises:
            CommandError: It is being restored.
        """
        refusal = f"A restore of {self.root} is in progress. Wait until it has finished."
        with self._holding(refusal, shared=True):
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the home against all processes that use it by `shared`.

        Raises:
            CommandError: One does.
        """
        users = "`opsin serve`, `opsin worker` or another command"
        refusal = f"{self.root} is in use by {users}. Stop it, and try again."
        with self._holding(refusal, shared=False):
            yield

    @contextmanager
    def _holding(self, refusal: str, *, shared: bool) -> Iterator[None]:
        try:
            for folder in (self.root, self.run):
                folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
            lock = os.open(self.run / "use.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            if not shared:
                raise
            yield
            return
        try:
            if not try_lock(lock, shared=shared):
                raise CommandError(refusal)
            yield
        finally:
            os.close(lock)

    def _already_running(self, content: bytes) -> str:
        pid = content.decode(errors="replace").strip() or "unknown"
        return (
            f"Opsin is already running from {self.root} (pid {pid}). Stop it with Ctrl-C in its "
            f"terminal or `kill {pid}`, or start a second one with another home and port: "
            "`OPSIN_HOME=./var2 OPSIN_PORT=8001 make up`."
        )
