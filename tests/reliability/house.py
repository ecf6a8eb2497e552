"""One installation as an operator runs it, `opsin up`, whose parts are found and struck at will.

Nothing here restarts anything: what comes back, comes back by itself. It lies on a small file
system of its own where the machine lets us mount one, so that its disk can be filled.
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
from tests.flow.running import ROOT, free_port, link

MODEL = "squeezenet"
READY_SECONDS = 300.0
_STOP_SECONDS = 40.0
_DISK = "256m"
_DATABASE_DISK = "8m"
# Words of a command line by which each part is known.
_ROLES: dict[str, tuple[str, ...]] = {
    "api": ("-m", "cli", "serve"),
    "worker": ("-m", "cli", "worker", "--unkept"),
    "jobs": ("-m", "cli", "worker", "--jobs"),
    "child": ("-m", "workers.jobs.child"),
}


class House:
    """One `opsin up`.

    Args:
        folder: Where its home is made, and its log.
        fetched: A home with `weights` and `samples`, as `make setup` leaves it.
        env: More settings.
        mounts: Whether its home and its database get a file system of their own.
        store: Where the network may lie already; elsewhere the worker imports it first.

    Attributes:
        home: Its `OPSIN_HOME`.
        database: The file of its database, in `database_disk`.
        clock: Where a fault of the clock says how far it is off.
    """

    def __init__(
        self,
        folder: Path,
        fetched: Path,
        env: Mapping[str, str],
        *,
        mounts: bool = False,
        store: Path | None = None,
    ) -> None:
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
            # Links do not lead from one file system to another.
            copy = shutil.copy if mounts else link
            shutil.copytree(store / MODEL, self.home / "store" / MODEL, copy_function=copy)
        for name in ("weights", "samples"):
            # Linked, not copied: nothing is fetched, and nothing of them is changed.
            (self.home / name).symlink_to((fetched / name).resolve())
        self.database = self.database_disk / "opsin.db"
        outside = {name: v for name, v in os.environ.items() if not name.startswith("OPSIN_")}
        weights = os.environ.get("OPSIN_WEIGHTS_DIR") or str(SHARED / "weights")
        self._env = outside | {
            "OPSIN_HOME": str(self.home),
            "OPSIN_PORT": str(self.port),
            "OPSIN_DATABASE_URL": f"sqlite:///{self.database}",
            "OPSIN_MODELS": MODEL,
            "OPSIN_OFFLINE": "1",
            "OPSIN_MIN_FREE_DISK_BYTES": "0",
            # An upload is taken in by a job however small it is: a cheap job with a child.
            "OPSIN_DATASET_JOB_BYTES": "0",
            "OPSIN_JOB_NICENESS": "0",
            "OPSIN_WEIGHTS_DIR": weights,
            **env,
        }

    def start(self) -> None:
        """Run it, and wait until it serves."""
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
                raise RuntimeError(f"it does not start:\n{self._log.read_text()[-3000:]}")
            time.sleep(0.2)

    def is_ready(self) -> bool:
        """Whether all it stands on answers."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def lives(self) -> bool:
        """Whether `opsin up` itself still runs."""
        return self._process is not None and self._process.poll() is None

    def find(self, role: str) -> list[psutil.Process]:
        """The processes of a role that run now: api, worker, jobs, child or valkey."""
        if self._process is None:
            return []
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with suppress(psutil.Error):
                words = process.cmdline()
                if role == "valkey":
                    is_it = bool(words) and "valkey-server" in words[0]
                else:
                    is_it = _stand_together(_ROLES[role], words)
                if is_it:
                    found.append(process)
        return found

    def one(self, role: str, seconds: float = 30.0) -> psutil.Process:
        """The process of a role, waited for."""
        until = time.monotonic() + seconds
        while not (found := self.find(role)):
            if time.monotonic() > until:
                raise RuntimeError(f"no {role} runs")
            time.sleep(0.005)
        return found[0]

    @property
    def redis_url(self) -> str:
        """The embedded Valkey's."""
        return f"unix://{self.home / 'run' / 'valkey.sock'}"

    def tails(self, letters: int = 1500) -> str:
        """The end of what each part has said."""
        files = [self._log, *sorted((self.home / "logs").glob("*.log"))]
        said = ((file.stem, file.read_text(errors="replace")[-letters:]) for file in files)
        return "\n".join(f"--- {name}\n{end}" for name, end in said)

    def close(self) -> float:
        """Stop it; the seconds that took."""
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
def opened(house: House) -> Iterator[House]:
    """The house, started, and closed whatever happens."""
    try:
        house.start()
        yield house
    finally:
        house.close()


def _stand_together(wanted: tuple[str, ...], words: list[str]) -> bool:
    """Whether those words stand in a command line one after the other."""
    width = len(wanted)
    return any(tuple(words[at : at + width]) == wanted for at in range(len(words)))
