"""One `opsin up`, as an operator runs it, whose processes can be found and disturbed.

Nothing here restarts anything: the service has to recover by itself. Its home is on a small file
system of its own if the machine can mount one, so that its disk can be filled.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from tests.conftest import SHARED
from tests.flow.installation import ROOT, link
from tests.ports import free_port
from tests.silent_proxy import SilentProxy

MODEL = "squeezenet"
READY_SECONDS = 300.0
_STOP_SECONDS = 40.0
_DISK = "256m"
_DATABASE_DISK = "8m"
# Words in the command line that identify each process.
_ROLES: dict[str, tuple[str, ...]] = {
    "api": ("-m", "cli", "serve"),
    "worker": ("-m", "cli", "worker", "--unkept"),
    "jobs": ("-m", "cli", "worker", "--jobs"),
    "child": ("-m", "workers.jobs.child"),
}


class Deployment:
    """One `opsin up`.

    Args:
        folder: Where its home and its log are created.
        fetched: A home with `weights` and `samples`, as `make setup` leaves it.
        env: Further settings.
        mounts: Whether its home and its database each get a file system of their own.
        store: A store that may already contain the network; otherwise the worker imports it.
        database_proxy: What PostgreSQL is reached through.

    Attributes:
        home: Its `OPSIN_HOME`.
        database: The file of its database, in `database_disk`.
        clock: The file with the offset of its clock.
    """

    def __init__(
        self,
        folder: Path,
        fetched: Path,
        env: Mapping[str, str],
        *,
        mounts: bool = False,
        store: Path | None = None,
        database_proxy: SilentProxy | None = None,
    ) -> None:
        self.database_proxy = database_proxy
        self.home = folder / "home"
        self.database_disk = self.home / "database"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.clock = folder / "clock"
        self._log = folder / "up.log"
        self._mounted: list[Path] = []
        self._process: subprocess.Popen[bytes] | None = None
        self.home.mkdir(parents=True)
        if mounts:
            self._mount(self.home, _DISK)
            self._mount(self.database_disk, _DATABASE_DISK)
        self.database_disk.mkdir(exist_ok=True)
        if store is not None and (store / MODEL).is_dir():
            # Hard links do not work across file systems.
            copy = shutil.copy if mounts else link
            shutil.copytree(store / MODEL, self.home / "store" / MODEL, copy_function=copy)
        for name in ("weights", "samples"):
            # Linked, not copied: nothing is downloaded, and they are not changed.
            (self.home / name).symlink_to((fetched / name).resolve())
        self.database = self.database_disk / "opsin.db"
        inherited = {name: v for name, v in os.environ.items() if not name.startswith("OPSIN_")}
        weights = os.environ.get("OPSIN_WEIGHTS_DIR") or str(SHARED / "weights")
        self._env = inherited | {
            "OPSIN_HOME": str(self.home),
            "OPSIN_PORT": str(self.port),
            "OPSIN_DATABASE_URL": f"sqlite:///{self.database}",
            "OPSIN_MODELS": MODEL,
            "OPSIN_OFFLINE": "1",
            "OPSIN_MIN_FREE_DISK_BYTES": "0",
            # Every upload becomes a job, however small: a cheap job with a child process.
            "OPSIN_DATASET_JOB_BYTES": "0",
            "OPSIN_JOB_NICENESS": "0",
            "OPSIN_WEIGHTS_DIR": weights,
            **env,
        }

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "cli", "up"],
                cwd=ROOT,
                env=self._env | {"PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        until = time.monotonic() + READY_SECONDS
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"it did not start:\n{self._log.read_text()[-3000:]}")
            time.sleep(0.2)

    def is_ready(self) -> bool:
        """Whether it reports that it is ready."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def is_running(self) -> bool:
        """Whether `opsin up` itself still runs."""
        return self._process is not None and self._process.poll() is None

    def processes(self, role: str) -> list[psutil.Process]:
        """The running processes of a role: api, worker, jobs, child or valkey."""
        if self._process is None:
            return []
        matching = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with suppress(psutil.Error):
                words = process.cmdline()
                if role == "valkey":
                    matches = bool(words) and "valkey-server" in words[0]
                else:
                    matches = _contains_sequence(_ROLES[role], words)
                if matches:
                    matching.append(process)
        return matching

    def wait_for(self, role: str, seconds: float = 30.0) -> psutil.Process:
        """The first process of a role, as soon as there is one."""
        until = time.monotonic() + seconds
        while not (running := self.processes(role)):
            if time.monotonic() > until:
                raise RuntimeError(f"there is no {role} process")
            time.sleep(0.005)
        return running[0]

    @property
    def database_url(self) -> str:
        """The address of its database."""
        return self._env["OPSIN_DATABASE_URL"]

    @property
    def redis_url(self) -> str:
        """The address of the embedded Valkey."""
        return f"unix://{self.home / 'run' / 'valkey.sock'}"

    def log_tails(self, characters: int = 1500) -> str:
        """The end of each log."""
        files = [self._log, *sorted((self.home / "logs").glob("*.log"))]
        ends = ((file.stem, file.read_text(errors="replace")[-characters:]) for file in files)
        return "\n".join(f"--- {name}\n{end}" for name, end in ends)

    def close(self) -> float:
        """Stop it; return how many seconds that took."""
        began = time.monotonic()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
        took = time.monotonic() - began
        for point in reversed(self._mounted):
            subprocess.run(["umount", "--lazy", point], check=False)
        shutil.rmtree(self.home, ignore_errors=True)
        return took

    def _mount(self, point: Path, size: str) -> None:
        point.mkdir(exist_ok=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "opsin-chaos", point],
            check=True,
        )
        self._mounted.append(point)


@contextmanager
def started(deployment: Deployment) -> Iterator[Deployment]:
    """Start the deployment, and close it in any case."""
    try:
        deployment.start()
        yield deployment
    finally:
        deployment.close()


def _contains_sequence(sequence: tuple[str, ...], words: list[str]) -> bool:
    """Whether a command line contains those words, one after the other."""
    width = len(sequence)
    return any(tuple(words[start : start + width]) == sequence for start in range(len(words)))
