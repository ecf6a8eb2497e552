"""Starts, observes and stops a server with all its processes."""

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
    """The server did not start. The message is shown in the table."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a server and how to send it images.

    Attributes:
        command: The command line.
        env: Additional environment variables.
        port: Port on 127.0.0.1.
        path: URL path that accepts images.
        field: Form field of the image; None to send it as the body.
    """

    command: Sequence[str]
    env: Mapping[str, str]
    port: int
    path: str
    field: str | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of a process in MiB.

    Attributes:
        pss: With its share of the pages that it shares with other processes.
        rss: With all of them.
    """

    pss: float
    rss: float


class Server:
    """One running server and all its processes.

    Attributes:
        launch: How it was started.
        ready_seconds: From the start to the first successful response.
    """

    def __init__(self, launch: Launch, *, folder: Path, log: Path) -> None:
        """Start the server; `await_ready` must follow."""
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

    def await_ready(self, image: bytes, *, seconds: float) -> None:
        """Wait until it responds to an image.

        Raises:
            ServerFailedError: It ended, or did not respond within `seconds`.
        """
        last = "no response"
        with httpx.Client(timeout=seconds, trust_env=False) as client:
            while time.monotonic() < self._began + seconds:
                if self._process.poll() is not None:
                    code = self._process.returncode
                    raise ServerFailedError(f"ended with code {code}: {self._last_line()}")
                try:
                    answer = self._post(client, image)
                except httpx.HTTPError:
                    time.sleep(_POLL_SECONDS)
                    continue
                if answer.status_code == 200:
                    self.ready_seconds = time.monotonic() - self._began
                    return
                last = f"status {answer.status_code}: {answer.text[:120]}"
                time.sleep(_POLL_SECONDS)
        raise ServerFailedError(f"not ready within {seconds:.0f} s; {last}")

    def _post(self, client: httpx.Client, image: bytes) -> httpx.Response:
        url = f"http://127.0.0.1:{self.launch.port}{self.launch.path}"
        if self.launch.field is not None:
            file = ("image.jpg", image, "image/jpeg")
            return client.post(url, files={self.launch.field: file})
        return client.post(url, content=image, headers={"Content-Type": "image/jpeg"})

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:160] if lines else "no output"

    def processes(self) -> list[psutil.Process]:
        """The process of the server and its descendants."""
        try:
            first = psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def pss_mib(self) -> float:
        """Memory of all its processes in MiB, with shared pages counted once."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total / MIB

    def memory_mib(self, word: str) -> Memory | None:
        """The memory of the largest process with `word` on its command line."""
        sizes = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if word in process.cmdline():
                    info = process.memory_full_info()
                    sizes.append(Memory(info.pss / MIB, info.rss / MIB))
        return max(sizes, key=lambda size: size.pss, default=None)

    def cpu_seconds(self) -> float:
        """CPU time of all its processes so far."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def cpu_by_process(self) -> dict[str, float]:
        """CPU time of Opsin's processes so far, by what they do."""
        times: dict[str, float] = {}
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                name, spent = _process_name(process.cmdline()), process.cpu_times()
                times[name] = times.get(name, 0.0) + spent.user + spent.system
        return times

    def freeze(self) -> None:
        """Suspend all its processes, so that they use no CPU."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume a frozen server."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)

    def stop(self) -> None:
        """Terminate the server and kill what is left of it."""
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


def _process_name(command: Sequence[str]) -> str:
    if command and "valkey" in command[0]:
        return "Valkey"
    if "serve" in command:
        return "API"
    return "worker" if "worker" in command and "--unkept" in command else "others"


def adopt_orphans() -> None:
    """Make orphaned descendants children of this process, so that `reap` finds them."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def reap() -> None:
    """Kill all descendants of this process."""
    descendants = psutil.Process().children(recursive=True)
    for process in descendants:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(descendants, timeout=_STOP_SECONDS)
