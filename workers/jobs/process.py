"""The process of one attempt, seen from its parent: started, watched, ended, reaped.

The child stops by itself when it should. Where it is too deep in a computation to notice, or hangs,
the parent ends it: a job must never outlive its lease, its cancellation or its time.
"""

import os
import signal
import site
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from database.jobs.leases import Lease

_ROOT = str(Path(__file__).resolve().parents[2])
_VMSTAT = Path("/proc/vmstat")
_FAULTS = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}


class WorkProcess:
    """One child in a session of its own; its output goes where ours goes.

    Args:
        lease: What it works on.
        kinds: Which table names the functions.
        threads: What TensorFlow may use.
        environment: In which it reads its settings.
    """

    def __init__(
        self, lease: Lease, kinds: str, threads: int, environment: Mapping[str, str]
    ) -> None:
        self._starved_before = _kills_for_memory()
        limits = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), str(threads))
        command = [sys.executable, "-P", "-m", "workers.jobs.child", lease.job_id]
        given = ["--worker", lease.worker_id, "--attempt", str(lease.attempt), "--kinds", kinds]
        self._process = subprocess.Popen(  # noqa: S603  our own module, ids from the database
            [*command, *given],
            stdin=subprocess.PIPE,
            env=_importable({**environment, **limits}),
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self, seconds: float) -> int | None:
        """Its exit status, negative for a signal; None if it runs on after that time."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def stop(self, seconds: float) -> None:
        """Ask it to finish, and end it when it has not within that time."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        self.wait(seconds)
        self.end()

    def end(self) -> None:
        """End it now, with all it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(10)  # one deep in the kernel ends when the kernel lets it
        if self._process.stdin is not None:
            self._process.stdin.close()

    def was_starved(self) -> bool:
        """Whether the system has killed it for want of memory (Linux tells)."""
        killed = self._process.returncode == -signal.SIGKILL
        return killed and _kills_for_memory() > self._starved_before

    def has_crashed(self) -> bool:
        """Whether it was ended by a fault of its own, and by nobody else."""
        status = self._process.returncode
        return status is not None and -status in _FAULTS


def _kills_for_memory() -> int:
    with suppress(OSError, ValueError):
        for line in _VMSTAT.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _importable(environment: Mapping[str, str]) -> dict[str, str]:
    """Let the child import this package from a checkout that is not installed."""
    if _ROOT in site.getsitepackages():
        return dict(environment)
    paths = [_ROOT, *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "PYTHONPATH": os.pathsep.join(paths)}
