"""Runs one worker: restarts it when it crashes, replaces it when it outgrows its memory limit.

Only the end of a process reliably gives memory back to the system. So a worker that has grown too
large gets a successor, and is asked to finish only when that is ready: no request notices. The
supervisor itself is small; it does not load TensorFlow.
"""

import functools
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import redis

from cli.output import notes, warn
from cli.processes.process import Program, opsin
from cli.processes.signals import StopSignals
from cli.processes.supervisor import Supervisor
from cli.settings import environment
from contracts.queue.celery import REDIS_OPTIONS
from contracts.queue.heartbeat import WorkerBeat, read_heartbeats
from contracts.settings import Settings

_TICK_SECONDS = 0.5
_NAME = "worker"
# After a swap two versions are in memory for a while; only what stays counts.
_OUTGROWN_SECONDS = 10.0
_SUCCESSOR_SECONDS = 600.0
_RETRY_SECONDS = 600.0
_MB = 1_000_000
# TensorFlow, which a worker that serves by OpenVINO loads with its first explanation.
_TENSORFLOW_MB = 1000.0


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """How much memory a worker may take.

    Attributes:
        megabytes: As set; 0 for twice what a fresh worker takes, plus TensorFlow.
    """

    megabytes: int

    def for_worker(self, fresh: float) -> float:
        """The limit in megabytes of a worker that took `fresh` when it became ready.

        A limit that a fresh worker already reaches would have it replaced for ever, so it may
        always grow by a quarter.
        """
        if not self.megabytes:
            return 2.0 * fresh + _TENSORFLOW_MB
        return max(float(self.megabytes), 1.25 * fresh)


class HeartbeatReader:
    """Reads the heartbeats of this machine's workers.

    Args:
        client: A connection whose answers are bytes.
    """

    def __init__(self, client: "redis.Redis") -> None:
        self._client = client

    def of(self, pid: int) -> WorkerBeat | None:
        """The last heartbeat of that process; None without one, or if Redis does not answer."""
        try:
            heartbeats = read_heartbeats(self._client)
        except redis.RedisError:
            return None
        for beat in heartbeats.workers:
            if (beat.host, beat.pid) == (socket.gethostname(), pid):
                return beat
        return None

    def is_ready(self, pid: int) -> bool:
        """Whether that process has loaded all it can."""
        beat = self.of(pid)
        return (
            beat is not None
            and bool(beat.models)
            and all(one.state != "loading" for one in beat.models)
        )


class WorkerSupervisor:
    """Runs one worker after the other.

    Args:
        heartbeats: Show when a worker is ready.
        signals: Entered.
        report: Called with a line for what happens.
        shutdown_seconds: How long a worker may take to finish.
        outgrown_seconds: How long it must be too large before it is replaced.

    Attributes:
        started: Whether a worker has sent a heartbeat; from then on it is restarted.
    """

    def __init__(
        self,
        program: Program,
        heartbeats: HeartbeatReader,
        limit: MemoryLimit,
        signals: StopSignals,
        report: Callable[[str], None],
        *,
        shutdown_seconds: float,
        outgrown_seconds: float = _OUTGROWN_SECONDS,
    ) -> None:
        self._program = program
        self._heartbeats = heartbeats
        self._limit = limit
        self._signals = signals
        self._report = report
        self._supervisor = functools.partial(Supervisor, report, shutdown_seconds=shutdown_seconds)
        self._outgrown_seconds = outgrown_seconds
        self.started = False
        self._current = self._supervisor()
        self._fresh: tuple[int, float] | None = None
        self._outgrown_since: float | None = None
        self._not_before = 0.0

    def run(self) -> None:
        """Run a worker until a stop is requested.

        Raises:
            CommandError: It does not even start, or crashes again and again.
        """
        try:
            self._current.start(self._program)
            while not self._signals.wait(_TICK_SECONDS):
                if self.started:
                    self._current.restart_crashed()
                else:
                    # A start that fails is reported to our own parent.
                    self._current.require_all()
                    self.started = self._heartbeats.of(self._pid) is not None
                if self._has_outgrown():
                    self._replace()
        finally:
            self._current.stop(self._signals)

    @property
    def _pid(self) -> int:
        return self._current.pids()[_NAME]

    def _has_outgrown(self) -> bool:
        """Whether it has been too large for a while, and not only because it loads something."""
        pid, now = self._pid, time.monotonic()
        memory = _resident(pid)
        if memory is None or now < self._not_before or not self._heartbeats.is_ready(pid):
            return False
        if self._fresh is None or self._fresh[0] != pid:
            self._fresh = (pid, memory)
        if memory <= self._limit.for_worker(self._fresh[1]):
            self._outgrown_since = None
            return False
        self._outgrown_since = self._outgrown_since or now
        return now - self._outgrown_since >= self._outgrown_seconds

    def _replace(self) -> None:
        """Start a successor, wait until it is ready, then let the old worker finish."""
        memory = _resident(self._pid) or 0.0
        self._report(
            f"The worker takes {memory:.0f} MB, more than its limit; a fresh one takes over."
        )
        self._outgrown_since = None
        successor = self._supervisor()
        successor.start(self._program)
        try:
            if not self._becomes_ready(successor):
                return
        except BaseException:
            successor.stop(at_once=True)
            raise
        self._current, old = successor, self._current
        old.stop(self._signals)

    def _becomes_ready(self, successor: Supervisor) -> bool:
        """Whether it does in time; otherwise it is ended, and the next try is delayed."""
        pid = successor.pids()[_NAME]
        deadline = time.monotonic() + _SUCCESSOR_SECONDS
        while not self._heartbeats.is_ready(pid):
            late = time.monotonic() > deadline
            if self._signals.wait(_TICK_SECONDS) or late or _is_over(pid):
                successor.stop(at_once=True)
                self._not_before = time.monotonic() + _RETRY_SECONDS
                self._report("The fresh worker did not become ready; the old one stays.")
                return False
            self._current.restart_crashed()
        return True


def supervise_worker(settings: Settings, signals: StopSignals, *, supervised: bool) -> None:
    """Run an inference worker with these settings.

    Args:
        signals: Entered.
        supervised: Whether our process group is ours alone, and killed as one.
    """
    program = Program(
        _NAME, opsin("worker", "--unkept"), environment(settings), None, own_session=not supervised
    )
    client = redis.Redis.from_url(str(settings.redis_url), **REDIS_OPTIONS)
    WorkerSupervisor(
        program,
        HeartbeatReader(client),
        MemoryLimit(settings.worker_memory_mb),
        signals,
        functools.partial(warn, notes()),
        shutdown_seconds=settings.shutdown_seconds,
    ).run()


def _resident(pid: int) -> float | None:
    """Resident memory of a process in megabytes; None if it is gone."""
    try:
        return float(psutil.Process(pid).memory_info().rss) / _MB
    except psutil.Error:
        return None


def _is_over(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True
