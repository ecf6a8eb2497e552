"""The child process of one attempt, as its parent sees it.

The child stops by itself when it has to. If it hangs or a long computation keeps it from noticing,
the parent kills it: a job must never outlive its lease, its cancellation or its time limit.
"""

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from database.jobs.leases import Lease
from models.processes import child_environment, module_command

_VMSTAT = Path("/proc/vmstat")
_FAULT_SIGNALS = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}


class WorkProcess:
    """One child process in its own session; it inherits our standard output and error.

    Args:
        kinds: The table of handlers, see `workers.jobs.handlers`.
        threads: Number of threads for TensorFlow.
        environment: The variables from which the child reads its settings.
    """

    def __init__(
        self, lease: Lease, kinds: str, threads: int, environment: Mapping[str, str]
    ) -> None:
        self._oom_kills_before = _oom_kills()
        limits = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), str(threads))
        options = ["--worker", lease.worker_id, "--attempt", str(lease.attempt), "--kinds", kinds]
        self._process = subprocess.Popen(  # noqa: S603  our own module, ids from the database
            module_command("workers.jobs.child", lease.job_id, *options),
            stdin=subprocess.DEVNULL,
            env=child_environment(limits, base=environment),
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self, seconds: float) -> int | None:
        """The exit status, negative for a signal; None if it is still running after that time."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def stop(self, seconds: float) -> None:
        """Ask it to finish, and kill it if it has not within that time."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        self.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """Kill it now, and everything that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(10)  # a process in a system call dies when the call returns

    def ran_out_of_memory(self) -> bool:
        """Whether the system has killed it because memory ran out (known only on Linux)."""
        killed = self._process.returncode == -signal.SIGKILL
        return killed and _oom_kills() > self._oom_kills_before

    def has_crashed(self) -> bool:
        """Whether it was ended by a fault such as a segmentation fault."""
        status = self._process.returncode
        return status is not None and -status in _FAULT_SIGNALS


def _oom_kills() -> int:
    """Number of processes that the kernel has killed because memory ran out."""
    with suppress(OSError, ValueError):
        for line in _VMSTAT.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
