"""The worker's heartbeat: once a second, what it is and which models it has loaded."""

import os
import socket
import time
from collections.abc import Callable
from threading import Event, Thread

import redis
import structlog

from contracts.queue import redis_keys
from contracts.queue.clock import RedisClock
from contracts.queue.heartbeat import (
    HEARTBEAT_EXPIRE_SECONDS,
    HEARTBEAT_SECONDS,
    HeldModel,
    VersionStatistics,
    WorkerBeat,
)
from contracts.settings import RELEASE

log = structlog.get_logger()


class HeartbeatPublisher:
    """A thread that publishes a heartbeat for as long as the process lives.

    Args:
        client: A connection that no other thread uses.
        worker_id: Unique to this process: a restarted worker is another worker.
        queues: For a job worker, how many jobs of each queue it runs at a time.
        clock: Measured with every heartbeat.
    """

    def __init__(
        self,
        client: "redis.Redis",
        worker_id: str,
        queues: dict[str, int] | None = None,
        *,
        clock: RedisClock | None = None,
    ) -> None:
        self._clock = clock or RedisClock()
        self._queues = queues or {}
        self._client = client
        self._id = worker_id
        self._started_at = time.time()
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="heartbeat", daemon=True)
        self._models: tuple[HeldModel, ...] = ()
        self._devices: tuple[str, ...] = ()
        self._count_traces: Callable[[], int] = lambda: 0
        self._read_statistics: Callable[[], tuple[VersionStatistics, ...]] = tuple
        self._checks: tuple[Callable[[redis.Redis], object], ...] = ()
        self._read_shared_pixels: Callable[[], tuple[str, ...]] = tuple
        self._read_installation: Callable[[], str | None] = lambda: None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Remove the heartbeat at once, so that it need not expire first."""
        self._stopped.set()
        self._thread.join(timeout=2 * HEARTBEAT_SECONDS)
        try:
            self._client.delete(redis_keys.heartbeat_key(self._id))
            self._client.srem(redis_keys.WORKERS, self._id)
        except redis.RedisError:
            log.warning("heartbeat_not_removed")

    def report(self, *models: HeldModel) -> None:
        """Set the state of all models; if it has changed, publish it at once."""
        if models != self._models:
            self._models = models
            self._publish()

    def set_devices(self, devices: tuple[str, ...]) -> None:
        self._devices = devices

    def set_trace_counter(self, count: Callable[[], int]) -> None:
        """Publish this number of traces from now on; called by the heartbeat's thread."""
        self._count_traces = count

    def set_statistics(self, read: Callable[[], tuple[VersionStatistics, ...]]) -> None:
        """Publish these counts from now on; called by the heartbeat's thread."""
        self._read_statistics = read

    def set_shared_pixels(self, read: Callable[[], tuple[str, ...]]) -> None:
        """Publish these names from now on; called by the heartbeat's thread."""
        self._read_shared_pixels = read

    def set_installation(self, read: Callable[[], str | None]) -> None:
        """Publish this id of the home from now on."""
        self._read_installation = read

    def set_checks(self, *checks: "Callable[[redis.Redis], object]") -> None:
        """Call these after each heartbeat from now on, in its thread and with its connection.

        They may raise the errors of Redis.
        """
        self._checks = checks

    def _run(self) -> None:
        while not self._stopped.wait(HEARTBEAT_SECONDS):
            self._publish()
            try:
                for check in self._checks:
                    check(self._client)
            except redis.RedisError as error:
                log.warning("heartbeat_check_failed", error=type(error).__name__)

    def _publish(self) -> None:
        heartbeat = WorkerBeat(
            id=self._id,
            host=socket.gethostname(),
            pid=os.getpid(),
            release=RELEASE,
            installation=self._read_installation(),
            devices=self._devices,
            started_at=self._started_at,
            beat_at=time.time(),
            models=self._models,
            traces=self._count_traces(),
            statistics=self._read_statistics(),
            queues=self._queues,
            reads_origins=True,
            reads_groups=True,
            shared_pixels=self._read_shared_pixels(),
            clock_ahead=self._clock.host_ahead,
        )
        try:
            pipe = self._client.pipeline()
            pipe.sadd(redis_keys.WORKERS, self._id)
            pipe.set(
                redis_keys.heartbeat_key(self._id),
                heartbeat.model_dump_json(),
                px=int(HEARTBEAT_EXPIRE_SECONDS * 1000),
            )
            pipe.time()
            started = self._clock.start()
            self._clock.observe(started, pipe.execute()[-1])
        except redis.RedisError as error:
            # The next heartbeat tries again.
            log.warning("heartbeat_not_sent", error=type(error).__name__)
