"""One place for a long job: takes the oldest that waits, runs it in a child, takes the next.

The database says what there is to do; the bell only says when to look. So a bell that is lost, or
rung twice, costs a few seconds or nothing.
"""

import os
import time
from dataclasses import dataclass
from threading import Event, Thread

import structlog

from contracts.errors import OpsinError
from contracts.jobs import LEASE_SECONDS
from contracts.settings import Settings
from database.jobs.files import JobFiles
from database.jobs.leases import Lease, Leases
from workers.jobs.child import ENDED, overdue
from workers.jobs.handlers import TABLE
from workers.jobs.process import WorkProcess
from workers.jobs.worker_id import is_gone

log = structlog.get_logger()

_IDLE_SECONDS = 5.0
_WATCH_SECONDS = 1.0
# A child that was told to stop and is deep in a computation is not waited for any longer.
_PATIENCE_SECONDS = 60.0
_LOST_SECONDS = 5.0  # another has the job: nothing it still does can count
# After a child that failed at once, so that a broken machine does not burn its attempts.
_BACKOFF_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Desk:
    """What all slots of a worker share.

    Attributes:
        worker_id: From `workers.jobs.worker_id.own_name`.
        leases: To take jobs and to give them back.
        files: What belongs to them.
        settings: The whole configuration.
        stopping: Set when no more is to be begun, and what runs is to be given back.
        kinds: Which table names the functions.
    """

    worker_id: str
    leases: Leases
    files: JobFiles
    settings: Settings
    stopping: Event
    kinds: str = TABLE


class Slot:
    """A thread that runs one job at a time.

    Args:
        queue: Whose jobs.
        desk: Shared.
    """

    def __init__(self, queue: str, desk: Desk) -> None:
        self.queue = queue
        self._desk = desk
        self._bell = Event()
        self._thread = Thread(target=self._run, name=f"slot-{queue}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ring(self) -> None:
        """Look at once whether something waits."""
        self._bell.set()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._desk.stopping.is_set():
            self._bell.clear()
            if not self._look():
                self._bell.wait(_IDLE_SECONDS)

    def _look(self) -> bool:
        """Whether there was something to do."""
        desk = self._desk
        try:
            release_the_dead(desk.leases)
            lease = desk.leases.claim_next(self.queue, desk.worker_id, LEASE_SECONDS)
            if lease is None:
                return False
            self._attempt(lease)
        except Exception:
            # Whatever it was, the next look may go well, and a slot that ended would be missed.
            log.exception("slot_interrupted", queue=self.queue)
            return False
        return True

    def _attempt(self, lease: Lease) -> None:
        desk = self._desk
        began = time.monotonic()
        child = WorkProcess(lease, desk.kinds, desk.settings.job_threads, dict(os.environ))
        log.info("child_started", job=lease.job_id, kind=lease.kind, pid=child.pid)
        try:
            status = self._tend(lease, child)
        finally:
            child.end()
        if status == ENDED:
            return
        asked = desk.stopping.is_set()
        log.warning("child_lost", job=lease.job_id, attempt=lease.attempt, status=status)
        self._give_back(lease, child, asked)
        if not asked and time.monotonic() < began + _BACKOFF_SECONDS:
            desk.stopping.wait(_BACKOFF_SECONDS)

    def _give_back(self, lease: Lease, child: WorkProcess, asked: bool) -> None:
        """End it if its end was asked for; else let the next attempt have it at once."""
        desk = self._desk
        if desk.leases.look(lease) == "cancelled":
            desk.leases.cancelled(lease)
            desk.files.end_work(lease.job_id)
        else:
            desk.leases.release(
                lease, was_asked=asked, starved=child.was_starved(), crashed=child.has_crashed()
            )
            if desk.leases.has_ended(lease.job_id):
                desk.files.end_work(lease.job_id)

    def _tend(self, lease: Lease, child: WorkProcess) -> int | None:
        """Wait for the child, and end it when it should have ended; its exit status."""
        desk = self._desk
        told_at: float | None = None
        ends_at = time.monotonic() + desk.settings.job_max_hours * 3600 + _PATIENCE_SECONDS
        while True:
            status = child.wait(_WATCH_SECONDS if not desk.stopping.is_set() else 0.05)
            if status is not None:
                return status
            if desk.stopping.is_set():
                child.stop(desk.settings.shutdown_seconds / 2)
                return child.wait(0)
            now = time.monotonic()
            if now > ends_at:
                desk.leases.fail(lease, overdue(desk.settings))
                return None
            patience = self._patience(lease)
            if patience is not None:
                told_at = told_at or now
                if now > told_at + patience:
                    log.warning("child_hangs", job=lease.job_id, pid=child.pid)
                    return None

    def _patience(self, lease: Lease) -> float | None:
        """How long a child that should stop is waited for; None while it shall go on."""
        try:
            found = self._desk.leases.look(lease)
        except OpsinError:
            return None  # The child judges by its own lease how long it may go on without.
        return {"held": None, "cancelled": _PATIENCE_SECONDS, "lost": _LOST_SECONDS}[found]


def release_the_dead(leases: Leases) -> None:
    """Give back what workers hold that were on this machine and are dead.

    Raises:
        Unavailable: The database does not answer.
    """
    for worker_id in leases.holders():
        if is_gone(worker_id):
            log.warning("worker_gone", worker=worker_id, jobs=leases.release_all(worker_id))
