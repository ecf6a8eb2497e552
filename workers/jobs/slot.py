"""A slot runs one long job at a time: the oldest of its queue, in a child process.

The database determines what there is to do; a notification only says when to look. A notification
that is lost therefore costs a few seconds, and one that comes twice costs nothing.
"""

import os
import time
from dataclasses import dataclass
from threading import Event, Thread

import structlog

from contracts.errors import OpsinError
from contracts.jobs import KEPT_KINDS, LEASE_SECONDS
from contracts.settings import Settings
from contracts.tracing.spans import current_span
from database.installation import home_id
from database.jobs.files import JobFiles
from database.jobs.leases import Lease, Leases
from workers.jobs.child import EXIT_ENDED, EXIT_LOCKED, max_hours, overdue_error
from workers.jobs.context import run_seconds
from workers.jobs.handlers import TABLE
from workers.jobs.process import WorkProcess
from workers.jobs.tracing import job_context
from workers.jobs.worker_id import is_dead

log = structlog.get_logger()

_IDLE_SECONDS = 5.0
_WATCH_SECONDS = 1.0
# How long a child that has to stop may go on with a computation.
_STOP_SECONDS = 60.0
_LOST_SECONDS = 5.0  # another worker has the job, so this child can achieve nothing
# How long, and for how many jobs, a process is kept (`contracts.jobs.KEPT_KINDS`).
_KEPT_SECONDS = 60.0
_KEPT_JOBS = 25
# Pause after a child that failed at once, so that a broken machine does not use up the attempts.
_BACKOFF_SECONDS = 0.5
# How long nobody tries a job again whose folder another process has; others of the queue run.
_LOCKED_SECONDS = LEASE_SECONDS / 2


@dataclass(frozen=True, slots=True)
class SlotContext:
    """What all slots of a worker share.

    Attributes:
        worker_id: From `workers.jobs.worker_id.new_worker_id`.
        stopping: Set when the worker stops: running jobs are given back and none is started.
        kinds: The table of handlers, see `workers.jobs.handlers`.
    """

    worker_id: str
    leases: Leases
    files: JobFiles
    settings: Settings
    stopping: Event
    kinds: str = TABLE


class Slot:
    """A thread that runs the jobs of one queue, one at a time."""

    def __init__(self, queue: str, context: SlotContext) -> None:
        self.queue = queue
        self._context = context
        self._notified = Event()
        self._kept: WorkProcess | None = None
        self._kept_until = 0.0
        self._has_home = True
        self._thread = Thread(target=self._run, name=f"slot-{queue}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def notify(self) -> None:
        """Look for a job immediately."""
        self._notified.set()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._context.stopping.is_set():
            self._notified.clear()
            try:
                if self._run_next():
                    continue
                if time.monotonic() > self._kept_until:
                    self._end_kept()
            except Exception:
                # The next try may succeed, and the worker must not lose a slot.
                log.exception("slot_interrupted", queue=self.queue)
            self._notified.wait(_IDLE_SECONDS)
        self._end_kept()

    def _run_next(self) -> bool:
        """Run the next job; return False if there is none."""
        context = self._context
        if not self._check_home():
            return False
        release_dead_workers(context.leases)
        lease = context.leases.claim_next(self.queue, context.worker_id, LEASE_SECONDS)
        if lease is None:
            return False
        with job_context(lease):
            self._attempt(lease)
        return True

    def _check_home(self) -> bool:
        """Whether the home is there; without its disk, every job would fail."""
        home = self._context.settings.home
        has_home = home_id(home) is not None
        if self._has_home and not has_home:
            log.error("home_missing", home=str(home), hint="check OPSIN_HOME and its mount")
        self._has_home = has_home
        return has_home

    def _attempt(self, lease: Lease) -> None:
        context = self._context
        started = time.monotonic()
        try:
            child = self._child_for(lease)
        except OSError:
            # Such as a full disk of temporary files, which is not the job's fault.
            context.leases.release(lease, stopped=True)
            context.stopping.wait(_BACKOFF_SECONDS)
            raise
        try:
            status = self._supervise(lease, child)
        finally:
            if child.is_idle and child.jobs < _KEPT_JOBS:
                self._kept, self._kept_until = child, time.monotonic() + _KEPT_SECONDS
            else:
                child.kill()
        if status == EXIT_ENDED:
            return
        if (part := current_span()) is not None:
            part.fail("child_lost")
        stopped = context.stopping.is_set()
        log.warning("child_lost", job=lease.job_id, attempt=lease.attempt, status=status)
        self._give_back(lease, child, stopped=stopped, locked=status == EXIT_LOCKED)
        if not stopped and time.monotonic() < started + _BACKOFF_SECONDS:
            context.stopping.wait(_BACKOFF_SECONDS)

    def _child_for(self, lease: Lease) -> WorkProcess:
        """The process that was kept, if it takes the job; otherwise a new one."""
        kept, self._kept = self._kept, None
        if kept is not None:
            if lease.kind in KEPT_KINDS and kept.take(lease):
                log.info("child_reused", job=lease.job_id, kind=lease.kind, pid=kept.pid)
                return kept
            kept.kill()
        context = self._context
        child = WorkProcess(lease, context.kinds, context.settings.job_threads, dict(os.environ))
        log.info("child_started", job=lease.job_id, kind=lease.kind, pid=child.pid)
        return child

    def _end_kept(self) -> None:
        if self._kept is not None:
            self._kept.kill()
            self._kept = None

    def _give_back(self, lease: Lease, child: WorkProcess, *, stopped: bool, locked: bool) -> None:
        """End the job if it was cancelled; otherwise release it for the next attempt."""
        context = self._context
        if context.leases.status(lease) == "cancelled":
            context.leases.cancel(lease)
            context.files.end_work(lease.job_id)
        else:
            context.leases.release(
                lease,
                stopped=stopped or locked,
                pause=_LOCKED_SECONDS if locked and not stopped else 0,
                out_of_memory=child.ran_out_of_memory(),
                crashed=child.has_crashed(),
            )
            if context.leases.has_ended(lease.job_id):
                context.files.end_work(lease.job_id)

    def _supervise(self, lease: Lease, child: WorkProcess) -> int | None:
        """Wait for the child; return its exit status, or None if it has to be killed."""
        context = self._context
        stop_since: float | None = None
        seconds = max_hours(context.settings, lease.kind) * 3600
        while True:
            status = child.wait(_WATCH_SECONDS if not context.stopping.is_set() else 0.05)
            if status is not None:
                return status
            if context.stopping.is_set():
                child.stop(context.settings.shutdown_seconds / 2)
                return child.wait(0)
            if run_seconds(context.files.work(lease.job_id)) > seconds + _STOP_SECONDS:
                context.leases.fail(lease, overdue_error(context.settings, lease.kind))
                return None
            stop_seconds = self._stop_seconds(lease)
            if stop_seconds is not None:
                now = time.monotonic()
                stop_since = stop_since or now
                if now > stop_since + stop_seconds:
                    log.warning("child_hangs", job=lease.job_id, pid=child.pid)
                    return None

    def _stop_seconds(self, lease: Lease) -> float | None:
        """How long a child that has to stop may take; None while it may go on."""
        try:
            status = self._context.leases.status(lease)
        except OpsinError:
            return None  # the child itself stops when its lease has expired
        return {"held": None, "cancelled": _STOP_SECONDS, "lost": _LOST_SECONDS}[status]


def release_dead_workers(leases: Leases) -> None:
    """Give back the jobs of workers that ran on this machine and are dead.

    Raises:
        Unavailable: The database does not answer.
    """
    for worker_id in leases.holders():
        if is_dead(worker_id):
            log.warning("worker_gone", worker=worker_id, jobs=leases.release_all(worker_id))
