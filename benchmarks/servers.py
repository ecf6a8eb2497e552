"""A server under test: started, asked until it answers, weighed, stopped with all it started."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

_POLL_SECONDS = 0.1
_STOP_SECONDS = 12.0
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h
MIB = 1024 * 1024


class ServerFailedError(RuntimeError):
    """It did not come up. The message is the reason a reader of the table gets."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a server and how to ask it.

    Attributes:
        command: The command line.
        env: Added to our environment.
        port: On 127.0.0.1.
        path: What pictures are posted to.
        field: The form field it wants a picture in; None: the bare body.
    """

    command: Sequence[str]
    env: Mapping[str, str]
    port: int
    path: str
    field: str | None = None


class Server:
    """One running server and all its processes.

    Attributes:
        launch: How it was started.
        ready_seconds: From the start to the first right answer.
    """

    def __init__(self, launch: Launch, *, folder: Path, log: Path) -> None:
        """Start it; `await_ready` has to follow."""
        self.launch = launch
        self.ready_seconds = 0.0
        self._log = log
        self._began = time.monotonic()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                launch.command,
                cwd=folder,
                env=os.environ | launch.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def await_ready(self, picture: bytes, *, seconds: float) -> None:
        """Return once it answers a picture.

        Raises:
            ServerFailedError: It died, or did not answer within `seconds`.
        """
        last = "it does not listen"
        with httpx.Client(timeout=seconds, trust_env=False) as client:
            while time.monotonic() < self._began + seconds:
                if self._process.poll() is not None:
                    code = self._process.returncode
                    raise ServerFailedError(f"ended with code {code}: {self._last_line()}")
                try:
                    answer = self._ask(client, picture)
                except httpx.HTTPError:
                    time.sleep(_POLL_SECONDS)
                    continue
                if answer.status_code == 200:
                    self.ready_seconds = time.monotonic() - self._began
                    return
                last = f"it answers {answer.status_code}: {answer.text[:120]}"
                time.sleep(_POLL_SECONDS)
        raise ServerFailedError(f"not ready within {seconds:.0f} s; {last}")

    def _ask(self, client: httpx.Client, picture: bytes) -> httpx.Response:
        url = f"http://127.0.0.1:{self.launch.port}{self.launch.path}"
        if self.launch.field is not None:
            file = ("picture.jpg", picture, "image/jpeg")
            return client.post(url, files={self.launch.field: file})
        return client.post(url, content=picture, headers={"Content-Type": "image/jpeg"})

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:160] if lines else "it said nothing"

    def processes(self) -> list[psutil.Process]:
        """The server's own and all that descend from it."""
        try:
            first = psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def pss_mib(self) -> float:
        """Memory of all its processes, shared pages counted once between them, in MiB."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total / MIB

    def rss_mib(self, word: str) -> float | None:
        """Resident memory of the largest process with `word` on its command line, in MiB."""
        sizes = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if word in process.cmdline():
                    sizes.append(process.memory_info().rss / MIB)
        return max(sizes, default=None)

    def cpu_seconds(self) -> float:
        """CPU time of all its processes so far."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def freeze(self) -> None:
        """Stop all its processes where they are, so that none of them takes time from others."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen one go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)

    def stop(self) -> None:
        """Ask it to end, and see to it that nothing of it is left."""
        self.thaw()
        processes = self.processes()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes, timeout=_STOP_SECONDS)


def adopt_orphans() -> None:
    """From now on processes whose parent dies become ours, so that none can escape `reap`."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def reap() -> None:
    """Kill whatever descends from this process."""
    left = psutil.Process().children(recursive=True)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=_STOP_SECONDS)
