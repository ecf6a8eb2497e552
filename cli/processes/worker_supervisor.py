"""Keeps one worker: restarts it when it crashes, replaces it when it has outgrown its bound.

Only the end of a process surely gives memory back to the system. So a worker that has grown too
large gets a successor, which loads beside it, and is told to finish only when that one is ready:
no request notices. The keeper itself is small; it loads no TensorFlow.
"""

import functools
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import psutil
import redis
from pydantic import ValidationError

from cli.output import notes, warn
from cli.processes.process import Program, opsin
from cli.processes.signals import StopSignals
from cli.processes.supervisor import Supervisor
from cli.settings import environment
from contracts.queue import redis_keys
from contracts.queue.celery import REDIS_OPTIONS
from contracts.queue.heartbeat import WorkerBeat
from contracts.settings import Settings

_TICK_SECONDS = 0.5
_NAME = "worker"
# After a swap two versions are in memory for a while; only what stays counts.
_OUTGROWN_SECONDS = 10.0
_SUCCESSOR_SECONDS = 600.0
_RETRY_SECONDS = 600.0
_MB = 1_000_000
# Megabytes of TensorFlow, which a worker that serves by OpenVINO loads with its first explanation.
_EXPLAINING = 1000.0


@dataclass(frozen=True, slots=True)
class Bound:
    """How much memory a worker may take.

    Attributes:
        megabytes: As set; 0 for twice what a fresh worker takes, and what explanations load.
    """

    megabytes: int

    def limit(self, fresh: float) -> float:
        """In megabytes, for a worker that took `fresh` when it became ready.

        A bound that a fresh worker already reaches would have it replaced for ever, so there is
        always room for a quarter more.
        """
        if not self.megabytes:
            return 2.0 * fresh + _EXPLAINING
        return max(float(self.megabytes), 1.25 * fresh)


class Beats:
    """What workers of this machine tell of themselves.

    Args:
        client: A connection whose answers are bytes.
    """

    def __init__(self, client: "redis.Redis") -> None:
        self._client = client

    def of(self, pid: int) -> WorkerBeat | None:
        """The last beat of that process; None if there is none, or Redis does not answer."""
        try:
            members = cast(set[bytes], self._client.smembers(redis_keys.WORKERS))
            keys = [redis_keys.worker_beat(raw.decode()) for raw in members]
            raws = cast(list[bytes | None], self._client.mget(keys) if keys else [])
        except redis.RedisError:
            return None
        for raw in raws:
            beat = _read(raw)
            if beat is not None and (beat.host, beat.pid) == (socket.gethostname(), pid):
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


class Keeper:
    """One worker after the other.

    Args:
        program: What to run.
        beats: Where to see that it is ready.
        bound: How much memory it may take.
        signals: Say when to stop.
        say: Told in a line what happens.
        shutdown_seconds: How long a worker may take to finish.
        outgrown_seconds: How long it must be too large to be replaced.

    Attributes:
        started: Whether a worker has given a sign of life; from then on it is restarted.
    """

    def __init__(
        self,
        program: Program,
        beats: Beats,
        bound: Bound,
        signals: StopSignals,
        say: Callable[[str], None],
        *,
        shutdown_seconds: float,
        outgrown_seconds: float = _OUTGROWN_SECONDS,
    ) -> None:
        self._program = program
        self._beats = beats
        self._bound = bound
        self._signals = signals
        self._say = say
        self._supervisor = functools.partial(Supervisor, say, shutdown_seconds=shutdown_seconds)
        self._outgrown_seconds = outgrown_seconds
        self.started = False
        self._now = self._supervisor()
        self._fresh: tuple[int, float] | None = None
        self._outgrown_since: float | None = None
        self._not_before = 0.0

    def run(self) -> None:
        """Keep a worker until told to stop.

        Raises:
            CommandError: It does not even start, or crashes again and again.
        """
        try:
            self._now.start(self._program)
            while not self._signals.wait(_TICK_SECONDS):
                if self.started:
                    self._now.tend()
                else:
                    # A start that fails is for whoever started us to see.
                    self._now.require_all()
                    self.started = self._beats.of(self._pid) is not None
                if self._has_outgrown():
                    self._replace()
        finally:
            self._now.stop(hurry=self._signals.hurried)

    @property
    def _pid(self) -> int:
        return self._now.pids()[_NAME]

    def _has_outgrown(self) -> bool:
        """Whether it has been too large for a while, and not only because it loads something."""
        pid, now = self._pid, time.monotonic()
        memory = _resident(pid)
        if memory is None or now < self._not_before or not self._beats.is_ready(pid):
            return False
        if self._fresh is None or self._fresh[0] != pid:
            self._fresh = (pid, memory)
        if memory <= self._bound.limit(self._fresh[1]):
            self._outgrown_since = None
            return False
        self._outgrown_since = self._outgrown_since or now
        return now - self._outgrown_since >= self._outgrown_seconds

    def _replace(self) -> None:
        """Start a successor, wait until it is ready, then let the old one finish."""
        memory = _resident(self._pid) or 0.0
        self._say(f"The worker takes {memory:.0f} MB, more than its bound; a fresh one takes over.")
        self._outgrown_since = None
        successor = self._supervisor()
        successor.start(self._program)
        try:
            if not self._becomes_ready(successor):
                return
        except BaseException:
            successor.stop(hurry=lambda: True)
            raise
        self._now, old = successor, self._now
        old.stop(hurry=self._signals.hurried)

    def _becomes_ready(self, successor: Supervisor) -> bool:
        """Whether it does in time; if not, it is ended, and the next try has time."""
        pid = successor.pids()[_NAME]
        until = time.monotonic() + _SUCCESSOR_SECONDS
        while not self._beats.is_ready(pid):
            late = time.monotonic() > until
            if self._signals.wait(_TICK_SECONDS) or late or _is_over(pid):
                successor.stop(hurry=lambda: True)
                self._not_before = time.monotonic() + _RETRY_SECONDS
                self._say("The fresh worker did not become ready; the old one stays.")
                return False
            self._now.tend()
        return True


def keep_worker(settings: Settings, signals: StopSignals, *, supervised: bool) -> None:
    """Keep an inference worker with these settings.

    Args:
        settings: Theirs.
        signals: Entered.
        supervised: Whether our process group is ours alone, and killed as one.
    """
    program = Program(
        _NAME, opsin("worker", "--unkept"), environment(settings), None, own_session=not supervised
    )
    client = redis.Redis.from_url(str(settings.redis_url), **REDIS_OPTIONS)
    Keeper(
        program,
        Beats(client),
        Bound(settings.worker_memory_mb),
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


def _read(raw: bytes | None) -> WorkerBeat | None:
    if raw is None:
        return None
    try:
        return WorkerBeat.model_validate_json(raw)
    except ValidationError:
        return None  # of another release
