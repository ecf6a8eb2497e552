"""A real installation for tests: Valkey, a worker and the API as processes that can be killed."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from models.store.aliases import ALIASES
from tests.ports import free_port
from tests.valkey import RealValkey

ROOT = Path(__file__).resolve().parents[2]
# The first start imports the networks into the store: half a minute each on two busy cores.
READY_SECONDS = 240.0


class Installation:
    """Runs the commands an operator would run, in its own home.

    Args:
        weights: A folder of fetched weights, like the `weights` folder of a home.
        env: Further `OPSIN_…` settings.
        store: A store to begin with; without it the worker imports the networks first.
        supervised: Whether a supervisor restarts and replaces the worker. Otherwise, a test kills
            the worker itself, which stays dead.
    """

    def __init__(
        self,
        home: Path,
        weights: Path,
        env: dict[str, str],
        *,
        store: Path | None = None,
        supervised: bool = False,
    ) -> None:
        self._supervised = supervised
        self.home = home
        self.valkey = RealValkey()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        home.mkdir(parents=True, exist_ok=True)
        (home / "weights").symlink_to(weights)
        if store is not None:
            # Links, not copies: a version's files never change.
            shutil.copytree(store, home / "store", copy_function=link)
        inherited = {name: v for name, v in os.environ.items() if not name.startswith("OPSIN_")}
        self._env = inherited | {
            "OPSIN_HOME": str(home),
            "OPSIN_PORT": str(self.port),
            "OPSIN_REDIS_URL": self.valkey.url,
            "OPSIN_OFFLINE": "1",
            **env,
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        self.valkey.start()
        self.run("api", "serve")
        self.run("worker", "worker")
        self.wait_until_ready()

    def run(self, name: str, command: str, **env: str) -> None:
        """Start one process, with its output in a log in the home; `env` is for it alone."""
        options = ["--unkept"] if command == "worker" and not self._supervised else []
        with (self.home / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "cli", *command.split(), *options],
                cwd=ROOT,
                env=self._env | env,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def wait_until_ready(self) -> None:
        self.wait_until(lambda: self.get("/readyz").status_code == 200, READY_SECONDS)

    def wait_for_new_worker(self) -> None:
        """Wait until a new worker is ready; a killed one seems to be alive for a while."""
        known = self.worker_ids()
        self.wait_until(lambda: bool(self.worker_ids() - known), READY_SECONDS)
        self.wait_until_ready()

    def worker_ids(self) -> set[str]:
        """The workers that have loaded a model."""
        workers = self.get("/v1/system").json()["workers"]
        loaded = {w["id"]: [m for m in w["models"] if m["operations"]] for w in workers}
        return {worker for worker, models in loaded.items() if models}

    def is_settled(self) -> bool:
        """Whether no model is still loading."""
        items = self.get("/v1/models").json()["items"]
        return all(model["state"] != "loading" for model in items)

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until `condition` holds; fail with the logs if a process dies."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
            except httpx.TransportError:
                pass
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} ended:\n{self.log(name)}"
            assert time.monotonic() < deadline, f"not within {seconds} s:\n{self.log('worker')}"
            time.sleep(0.1)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(60)

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text()[-4000:]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60)

    def close(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.valkey.close()


def link(source: str, target: str) -> None:
    """Make a hard link; a copy of the one file that is rewritten, and across file systems."""
    if Path(source).name == ALIASES:
        shutil.copy2(source, target)
        return
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.ENOTSUP}:
            raise
        shutil.copy2(source, target)
