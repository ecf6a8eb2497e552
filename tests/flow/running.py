"""The real thing for a test: Valkey, a worker and the API as processes, each killed at will."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from models.store.aliases import ALIASES
from tests.valkey import RealValkey

ROOT = Path(__file__).resolve().parents[2]
# The first start imports the networks into the store: half a minute each on two busy cores.
READY_SECONDS = 240.0


class Running:
    """One installation: the commands an operator would run, with a home of its own.

    Args:
        home: Its `OPSIN_HOME`.
        weights: A folder that holds fetched weights, as a `weights` folder of a home does.
        env: More `OPSIN_…` settings.
        store: A store to begin with; without it the worker imports the networks first.
        kept: Whether a keeper restarts and replaces the worker. Without, what a test kills is
            the worker itself, and stays dead.
    """

    def __init__(
        self,
        home: Path,
        weights: Path,
        env: dict[str, str],
        *,
        store: Path | None = None,
        kept: bool = False,
    ) -> None:
        self._kept = kept
        self.home = home
        self.valkey = RealValkey()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        home.mkdir(parents=True, exist_ok=True)
        (home / "weights").symlink_to(weights)
        if store is not None:
            # Links, not copies: a version's files never change.
            shutil.copytree(store, home / "store", copy_function=link)
        outside = {name: v for name, v in os.environ.items() if not name.startswith("OPSIN_")}
        self._env = outside | {
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
        self.await_ready()

    def run(self, name: str, command: str) -> None:
        """Start one process; its output goes to a log in the home."""
        bare = ["--unkept"] if command == "worker" and not self._kept else []
        with (self.home / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "cli", *command.split(), *bare],
                cwd=ROOT,
                env=self._env,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def await_ready(self) -> None:
        self.await_that(lambda: self.get("/readyz").status_code == 200, READY_SECONDS)

    def await_new_worker(self) -> None:
        """Wait until another worker is ready than before: a killed one still seems to be there."""
        known = self.worker_ids()
        self.await_that(lambda: bool(self.worker_ids() - known), READY_SECONDS)
        self.await_ready()

    def worker_ids(self) -> set[str]:
        """The workers that hold a model."""
        workers = self.get("/v1/system").json()["workers"]
        held = {one["id"]: [m for m in one["models"] if m["operations"]] for one in workers}
        return {worker for worker, models in held.items() if models}

    def nothing_loads(self) -> bool:
        """Whether every model is what it will be."""
        items = self.get("/v1/models").json()["items"]
        return all(model["state"] != "loading" for model in items)

    def await_that(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until `condition` holds; fail with the logs when a process dies meanwhile."""
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
        process.wait(30)

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text()[-4000:]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=10)

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
    """A hard link, but for the one file that is written anew."""
    if Path(source).name == ALIASES:
        shutil.copy(source, target)
    else:
        os.link(source, target)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
