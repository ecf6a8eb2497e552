"""The child process of an attempt, as its parent sees it.

It usually runs one attempt and ends. Of the kinds in `contracts.jobs.KEPT_KINDS` it stays and takes
the next job from its standard input; a pipe tells when each has ended.

The child stops by itself when it has to. If it hangs or a long computation keeps it from noticing,
the parent kills it: a job must never outlive its lease, its cancellation or its time limit.
"""

import os
import select
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from contracts.jobs import KEPT_KINDS
from database.jobs.leases import Lease
from models.processes import child_environment, module_command
from workers.jobs.tracing import attempt_header
from workers.scratch import Scratch

_VMSTAT = Path("/proc/vmstat")
_FAULT_SIGNALS = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}


class WorkProcess:
    """One child process in its own session; it inherits our standard output and error.

    Args:
        kinds: The table of handlers, see `workers.jobs.handlers`.
        threads: Number of threads for TensorFlow.
        environment: The variables from which the child reads its settings.

    Attributes:
        jobs: How many attempts it was given.
    """

    def __init__(
        self, lease: Lease, kinds: str, threads: int, environment: Mapping[str, str]
    ) -> None:
        self._oom_kills_before = _oom_kills()
        self._scratch = Scratch()
        changes = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), str(threads))
        changes["TMPDIR"] = str(self._scratch.path)
        options = ["--worker", lease.worker_id, "--attempt", str(lease.attempt), "--kinds", kinds]
        if trace := attempt_header():
            options += ["--trace", trace]
        keeps = lease.kind in KEPT_KINDS
        self.jobs = 1
        self._idle = False
        self._answers: int | None = None
        answers: int | None = None
        if keeps:
            self._answers, answers = os.pipe()
        if answers is not None:
            options += ["--answers", str(answers)]
        try:
            self._process = subprocess.Popen(  # noqa: S603  our own module, ids from the database
                module_command("workers.jobs.child", lease.job_id, *options),
                stdin=subprocess.PIPE if keeps else subprocess.DEVNULL,
                env=child_environment(changes, base=environment),
                start_new_session=True,
                pass_fds=[fd for fd in (self._scratch.lock, answers) if fd is not None],
            )
        except BaseException:
            self._scratch.remove()
            raise
        finally:
            if answers is not None:
                os.close(answers)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_idle(self) -> bool:
        """Whether it has finished a job and waits for the next one."""
        return self._idle and self._process.poll() is None

    def take(self, lease: Lease) -> bool:
        """Give an idle process another job; False if it has died."""
        stdin = self._process.stdin
        if not self.is_idle or stdin is None:
            return False
        try:
            stdin.write(f"{lease.job_id} {lease.attempt} {attempt_header()}\n".encode())
            stdin.flush()
        except OSError:
            return False
        self._idle = False
        self.jobs += 1
        self._oom_kills_before = _oom_kills()
        return True

    def wait(self, seconds: float) -> int | None:
        """The status of the job, negative for a signal; None if it still runs after that time."""
        if self._answers is not None and not self._idle:
            readable, _, _ = select.select([self._answers], [], [], seconds)
            if not readable:
                return None
            if answer := os.read(self._answers, 16):
                self._idle = True
                return int(answer)
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
        """Kill it now, and everything that it started; remove its temporary files."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)  # one in a system call dies when the call returns
        if self._answers is not None:
            os.close(self._answers)
            self._answers = None
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        self._scratch.remove()

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
