"""A long task as its own process sees it: `contracts.work.Work` over the job's lease.

The work's thread only sets and reads memory, so a step costs microseconds. A second thread looks
at the job a few times a second: it writes the progress, keeps the lease, and sees that the job was
cancelled or taken over. Metrics and files are written at once: they are few, and must be there when
the work goes on.

How long a job has run in all its attempts: the time between them does not count.

Kept in the job's scratch folder, which outlives a lost process and goes when the job ends. What a
killed attempt ran since it last noted it is lost; that is seconds, of hours.

Numbers of numpy and TensorFlow as JSON takes them: finite, or null.
"""

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event, Thread
from typing import Any, Literal

import structlog

from contracts.errors import InternalError, Unavailable
from contracts.jobs import LEASE_SECONDS, Progress
from contracts.work import WorkStoppedError
from database.jobs.files import JobFiles
from database.jobs.leases import Lease, Leases
from models.store.manifest import write_atomically

log = structlog.get_logger()

LOOK_SECONDS = 0.25
_BEAT_SECONDS = LEASE_SECONDS / 6
_RETRY_SECONDS = 0.5
_MOST_BYTES = 512 * 1024 * 1024

Stop = Literal["cancelled", "lost", "overdue", "asked"]


class LeasedWork:
    """One attempt at a job, held by this process.

    Args:
        lease: Held.
        leases: To write with.
        files: Where the job's files are.
        max_hours: How long the job may run in all; the time between its attempts does not count.

    Attributes:
        stopped: Why the work shall end; None while it shall go on.
    """

    def __init__(self, lease: Lease, leases: Leases, files: JobFiles, max_hours: float) -> None:
        self.job_id = lease.job_id
        self.attempt = lease.attempt
        self.request: dict[str, Any] = lease.request
        self.folder: Path = files.work(lease.job_id)
        self.stopped: Stop | None = None
        self._lease = lease
        self._leases = leases
        self._files = files
        self._ran = RunTime(self.folder)
        self._most_seconds = max_hours * 3600
        now = time.monotonic()
        self._held_until = now + LEASE_SECONDS
        self._beat_at = now
        self._latest: Progress | None = None
        self._first: tuple[float, float] | None = None
        self._over = Event()
        self._thread = Thread(target=self._watch, name="lease", daemon=True)

    def start(self) -> None:
        """Keep the lease from now on."""
        self._thread.start()

    def close(self) -> None:
        """Write the last progress and keep the lease no more."""
        self._over.set()
        self._thread.join(LEASE_SECONDS)
        self._ran.note()

    def ask(self, why: Stop) -> None:
        """Stop the work at its next step; the first reason counts."""
        self.stopped = self.stopped or why

    def check(self) -> None:
        if self.stopped is not None:
            raise WorkStoppedError(self.stopped)

    def progress(self, progress: Progress) -> None:
        self.check()
        if self._first is None:
            self._first = (time.monotonic(), progress.fraction)
        self._latest = progress

    def metrics(self, row: dict[str, Any]) -> None:
        """As `contracts.work.Work.metrics`; one without epoch and phase is always a new one."""
        self.check()
        told: dict[str, Any] = plain(row)
        epoch, phase = told.get("epoch"), told.get("phase")
        key = f"{phase}:{epoch}"[:120] if (epoch, phase) != (None, None) else f"#{time.time_ns()}"
        self._write(lambda: self._leases.metrics(self._lease, key, told))

    def artifact(self, name: str, media_type: str, content: bytes) -> None:
        """As `contracts.work.Work.artifact`.

        Raises:
            ValueError: The name is none for a file.
            InternalError: It is larger than half a GiB.
            Unavailable: The disk does not take it.
        """
        self.check()
        if len(content) > _MOST_BYTES:
            raise InternalError(f"A file that a job makes may have {_MOST_BYTES} bytes, no more.")
        # Whoever lost the job must not replace a file of the one who has it now.
        if self._leases.look(self._lease) == "lost":
            self.ask("lost")
        self.check()
        self._files.store_artifact(self.job_id, name, content)
        self._write(lambda: self._leases.artifact(self._lease, name, media_type, len(content)))

    def _write(self, write: Callable[[], bool]) -> None:
        """Write now; while the database is away, wait for it as long as the lease lasts."""
        while True:
            try:
                if not write():
                    self.ask("lost")
                break
            except Unavailable:
                self.check()
                time.sleep(_RETRY_SECONDS)
        self.check()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self._look()
        self._tell()

    def _look(self) -> None:
        now = time.monotonic()
        if self._ran.seconds > self._most_seconds:
            self.ask("overdue")
        try:
            found = self._leases.look(self._lease)
            if found != "held":
                self.ask(found)
            elif now >= self._beat_at:
                self._beat(now)
            self._tell()
        except Unavailable as error:
            log.warning("job_not_kept", job=self.job_id, error=type(error).__name__)
            if now > self._held_until:
                self.ask("lost")

    def _beat(self, now: float) -> None:
        self._ran.note()
        if self._leases.heartbeat(self._lease, LEASE_SECONDS):
            self._beat_at = now + _BEAT_SECONDS
            self._held_until = now + LEASE_SECONDS
        else:
            self.ask("lost")

    def _tell(self) -> None:
        """Write the newest progress, if there is one that is not written."""
        newest = self._latest
        if newest is None or self.stopped == "lost":
            return
        try:
            self._leases.progress(self._lease, self._with_eta(newest))
        except Unavailable:
            return  # it is told with the next look
        if self._latest is newest:
            self._latest = None

    def _with_eta(self, progress: Progress) -> Progress:
        """With the time that is left at the pace of this attempt, where the work says none."""
        if progress.eta_seconds is not None or self._first is None:
            return progress
        began, first = self._first
        done = progress.fraction - first
        if done <= 0:
            return progress
        left = (1 - progress.fraction) * (time.monotonic() - began) / done
        return progress.model_copy(update={"eta_seconds": round(left, 1)})


_FILE = "run-seconds"


class RunTime:
    """The running time of one attempt, on top of those before it.

    Args:
        folder: The job's own.
        clock: Monotonic seconds.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = folder / _FILE
        self._clock = clock
        self._began = clock()
        self._before = _read(self._path)

    @property
    def seconds(self) -> float:
        """How long the job has run until now."""
        return self._before + self._clock() - self._began

    def note(self) -> None:
        """Keep it for the next attempt, as well as the disk allows."""
        with contextlib.suppress(OSError):
            write_atomically(self._path, f"{self.seconds:.3f}")


def _read(path: Path) -> float:
    try:
        return max(0.0, float(path.read_text()))
    except (OSError, ValueError):
        return 0.0


def plain(value: Any) -> Any:
    """The same value in JSON's types.

    A float that is not finite becomes None: JSON knows neither NaN nor infinity. Anything with
    `tolist` (arrays and scalars of numpy) becomes what that gives; what is left, its text.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)
