"""What a job sees of its attempt: `contracts.work.Work` implemented on the job's lease.

The thread that does the work only sets and reads memory, so a call costs microseconds. A second
thread checks the job a few times a second: it writes the progress, renews the lease and notices
that the job was cancelled or taken over. Metrics and files are written immediately, because they
are few and must be there when the work goes on.
"""

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event, Thread
from typing import Any, Literal

import structlog

from contracts.errors import DiskUnusable, InternalError, Unavailable
from contracts.files import free_bytes
from contracts.jobs import LEASE_SECONDS, STARTING, Progress
from contracts.metrics.registry import Metrics
from contracts.tracing.origin import TraceContext
from contracts.training.trainings import last_phase
from contracts.work import WorkStoppedError
from database.jobs.files import JobFiles
from database.jobs.leases import Lease, Leases
from models.store.manifest import write_atomically
from workers.jobs.pace import Pace
from workers.jobs.tracing import PhaseSpans

log = structlog.get_logger()

CHECK_SECONDS = 0.25
_HEARTBEAT_SECONDS = LEASE_SECONDS / 6
_RETRY_SECONDS = 0.5
_MAX_FILE_BYTES = 512 * 1024 * 1024
_ELAPSED_FILE = "run-seconds"
_MILLIONTH = 1e-6

StopReason = Literal["cancelled", "lost", "overdue", "shutdown"]


class LeasedWork:
    """One attempt at a job, whose lease this process holds.

    Args:
        max_hours: Maximum running time of the job; the time between attempts does not count.
        metrics: What this process counts.
        trace: The span of the attempt.
        kept_bytes: Of the disk, which artifacts leave free for other work.

    Attributes:
        stopped: Why the work has to end; None while it may continue.
        counts: The metrics of this process.
        at_peak: Called when a training has had all the memory that it trains with.
    """

    def __init__(
        self,
        lease: Lease,
        leases: Leases,
        files: JobFiles,
        max_hours: float,
        metrics: Metrics | None = None,
        *,
        trace: TraceContext | None = None,
        kept_bytes: int = 0,
    ) -> None:
        self.counts = metrics or Metrics()
        self.job_id = lease.job_id
        self.attempt = lease.attempt
        self.request: dict[str, Any] = lease.request
        self.folder: Path = files.work(lease.job_id)
        self.scopes: frozenset[str] = lease.scopes or frozenset()
        self.stopped: StopReason | None = None
        self.at_peak: Callable[[], None] | None = None
        self._lease = lease
        self._leases = leases
        self._files = files
        self._elapsed = ElapsedTime(self.folder)
        self._max_seconds = max_hours * 3600
        self._kept_bytes = kept_bytes
        now = time.monotonic()
        self._held_until = now + LEASE_SECONDS
        self._next_heartbeat = now
        self._latest: Progress | None = None
        self._pace = Pace()
        self._fraction, self._phase = 0.0, STARTING
        self._spans = PhaseSpans(lease.kind, trace)
        self._closed = Event()
        self._thread = Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        """Start to renew the lease."""
        self._thread.start()

    def close(self, error: str = "") -> None:
        """Write the last progress and stop renewing the lease.

        Args:
            error: The code of the error that ended the work, or "".
        """
        self._spans.end(error)
        self._closed.set()
        self._thread.join(LEASE_SECONDS)
        self._elapsed.save()

    def stop(self, reason: StopReason) -> None:
        """Stop the work at its next step; the first reason counts."""
        self.stopped = self.stopped or reason

    @property
    def is_paused(self) -> bool:
        """Whether the work waits, which does not count as running."""
        return self._elapsed.is_paused

    @property
    def paused_seconds(self) -> float:
        """How long this attempt has waited."""
        return self._elapsed.paused_seconds

    def pause(self) -> None:
        """Stop counting the running time."""
        self._elapsed.pause()
        self._elapsed.save()

    def resume(self) -> None:
        """Count the running time again."""
        self._elapsed.resume()

    def check(self) -> None:
        if self.stopped is not None:
            raise WorkStoppedError(self.stopped)

    def progress(self, progress: Progress) -> None:
        """See `contracts.work.Work`; the fraction of an attempt never goes back.

        A new phase moves it by a millionth at least, since clients are sent what is new by it.
        """
        self.check()
        fraction = max(progress.fraction, self._fraction)
        if progress.phase != self._phase and fraction == self._fraction:
            fraction = min(1.0, fraction + _MILLIONTH)
        if progress.phase != self._phase:
            self._spans.enter(progress.phase)
        self._fraction, self._phase = fraction, progress.phase
        progress = progress.model_copy(update={"fraction": fraction})
        self._pace.note(time.monotonic(), fraction, progress.phase)
        self._latest = progress

    def metrics(self, row: dict[str, Any]) -> None:
        """See `contracts.work.Work`; a row without epoch and phase never replaces another."""
        self.check()
        row = json_safe(row)
        epoch, phase = row.get("epoch"), row.get("phase")
        key = f"{phase}:{epoch}"[:120] if (epoch, phase) != (None, None) else f"#{time.time_ns()}"
        known = self._leases.has_row(self._lease, key)
        self._write(lambda: self._leases.metrics(self._lease, key, row))
        # Other jobs have rows of the same form. A resumed training reports earlier epochs again.
        if self._lease.kind == "training" and phase and epoch and not known:
            self.trained(str(phase), row.get("images") or 0)
            if self.at_peak is not None and phase == last_phase(self.request):
                self.at_peak()
                self.at_peak = None

    def trained(self, phase: str, images: int) -> None:
        """See `contracts.work.CountsEpochs`."""
        self.counts.inc("training_epochs_total", phase)
        self.counts.inc("training_images_total", phase, by=images)

    def artifact(self, name: str, media_type: str, content: bytes) -> None:
        """See `contracts.work.Work`.

        Raises:
            ValueError: The name is not a valid file name.
            InternalError: The file is larger than half a GiB.
            Unavailable: The disk is full or not writable.
        """
        self.check()
        if len(content) > _MAX_FILE_BYTES:
            raise InternalError(f"A file of a job may have at most {_MAX_FILE_BYTES} bytes.")
        if self._kept_bytes and free_bytes(self.folder) < self._kept_bytes + len(content):
            raise DiskUnusable(
                "The disk of the job worker is nearly full, and what is left is kept for other "
                "work. Delete jobs or datasets that are not needed, then send the request again."
            )
        # A process that has lost the job must not replace a file of the one that has it now.
        if self._leases.status(self._lease) == "lost":
            self.stop("lost")
        self.check()
        self._files.store_artifact(self.job_id, name, content)
        self._write(lambda: self._leases.artifact(self._lease, name, media_type, len(content)))

    def last_artifact(self, name: str, media_type: str, content: bytes) -> None:
        """Add or replace a file of a job that was cancelled, if it is still held here.

        What was made until then is kept; a failure to do so does not keep the job from ending.
        """
        if self.stopped != "cancelled":
            return
        with contextlib.suppress(Unavailable, OSError):
            if self._leases.status(self._lease) == "lost":
                return
            self._files.store_artifact(self.job_id, name, content)
            self._leases.artifact(self._lease, name, media_type, len(content))

    def _write(self, write: Callable[[], bool]) -> None:
        """Write immediately; if the database is unavailable, retry while the lease is held."""
        while True:
            try:
                if not write():
                    self.stop("lost")
                break
            except Unavailable:
                self.check()
                time.sleep(_RETRY_SECONDS)
        self.check()

    def _run(self) -> None:
        while not self._closed.wait(CHECK_SECONDS):
            self._check_lease()
        self._write_progress()

    def _check_lease(self) -> None:
        now = time.monotonic()
        if self._elapsed.seconds > self._max_seconds:
            self.stop("overdue")
        try:
            status = self._leases.status(self._lease)
            if status != "held":
                self.stop(status)
            elif now >= self._next_heartbeat:
                self._renew_lease(now)
            self._write_progress()
        except Unavailable as error:
            log.warning("job_not_kept", job=self.job_id, error=type(error).__name__)
            if now > self._held_until:
                self.stop("lost")

    def _renew_lease(self, now: float) -> None:
        self._elapsed.save()
        if self._leases.heartbeat(self._lease, LEASE_SECONDS):
            self._next_heartbeat = now + _HEARTBEAT_SECONDS
            self._held_until = now + LEASE_SECONDS
        else:
            self.stop("lost")

    def _write_progress(self) -> None:
        """Write the latest progress if it has not been written yet."""
        latest = self._latest
        if latest is None or self.stopped == "lost":
            return
        try:
            self._leases.progress(self._lease, self._with_eta(latest))
        except Unavailable:
            return  # the next check writes it
        if self._latest is latest:
            self._latest = None

    def _with_eta(self, progress: Progress) -> Progress:
        """Add the remaining time at the pace of this attempt, unless the work has set it."""
        if progress.eta_seconds is not None:
            return progress
        remaining = self._pace.remaining(time.monotonic(), progress.fraction)
        if remaining is None:
            return progress
        return progress.model_copy(update={"eta_seconds": round(remaining, 1)})


class ElapsedTime:
    """The running time of a job over all its attempts, without the time between them.

    It is stored in the job's work folder, which outlives a lost process. What a killed attempt ran
    since it was last saved is not counted: seconds out of hours.

    Args:
        folder: The job's work folder.
        clock: Monotonic seconds.

    Attributes:
        paused_seconds: How long this attempt has waited without counting.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = folder / _ELAPSED_FILE
        self._clock = clock
        self._started: float | None = clock()
        self._paused = 0.0
        self.paused_seconds = 0.0
        self._before = run_seconds(folder)

    @property
    def seconds(self) -> float:
        """How long the job has run until now."""
        started = self._started
        return self._before + (0.0 if started is None else self._clock() - started)

    @property
    def is_paused(self) -> bool:
        """Whether time passes uncounted."""
        return self._started is None

    def pause(self) -> None:
        """Stop counting."""
        seconds = self.seconds
        self._started, self._paused = None, self._clock()
        self._before = seconds

    def resume(self) -> None:
        """Count again."""
        self._started = self._clock()
        self.paused_seconds += self._started - self._paused

    def save(self) -> None:
        """Store the time for the next attempt, if the disk allows it."""
        with contextlib.suppress(OSError):
            write_atomically(self._path, f"{self.seconds:.3f}")


def run_seconds(folder: Path) -> float:
    """The running time that was last stored in a job's work folder."""
    try:
        return max(0.0, float((folder / _ELAPSED_FILE).read_text()))
    except (OSError, ValueError):
        return 0.0


def json_safe(value: Any) -> Any:
    """Convert a value to JSON's types.

    A float that is not finite becomes None, because JSON has neither NaN nor infinity. Arrays and
    scalars of NumPy and TensorFlow are converted by their `tolist`, anything else becomes text.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [json_safe(item) for item in value]
    if hasattr(value, "tolist"):
        return json_safe(value.tolist())
    return str(value)
