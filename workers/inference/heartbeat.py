"""The worker's signs of life: once a second, what it is and which models it holds."""

import os
import socket
import time
from collections.abc import Callable
from threading import Event, Thread

import redis
import structlog

from contracts.queue import redis_keys
from contracts.queue.heartbeat import BEAT_EXPIRY_SECONDS, BEAT_SECONDS, HeldModel, WorkerBeat
from contracts.settings import RELEASE

log = structlog.get_logger()


class Presence:
    """A thread that beats while the process lives.

    Args:
        client: A connection of its own.
        worker_id: Unique to this process: a restarted worker is another worker.
        queues: Of a job worker: how many jobs of each queue it runs at a time.
    """

    def __init__(
        self, client: "redis.Redis", worker_id: str, queues: dict[str, int] | None = None
    ) -> None:
        self._queues = queues or {}
        self._client = client
        self._id = worker_id
        self._started_at = time.time()
        self._stopped = Event()
        self._thread = Thread(target=self._beat_on, name="presence", daemon=True)
        self._models: tuple[HeldModel, ...] = ()
        self._devices: tuple[str, ...] = ()
        self._traces: Callable[[], int] = lambda: 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Say goodbye, so that nobody waits for the last beat to expire."""
        self._stopped.set()
        self._thread.join(timeout=2 * BEAT_SECONDS)
        try:
            self._client.delete(redis_keys.worker_beat(self._id))
            self._client.srem(redis_keys.WORKERS, self._id)
        except redis.RedisError:
            log.warning("goodbye_not_sent")

    def tell(self, *models: HeldModel) -> None:
        """Tell at once, not at the next beat, how all models fare; only if something changed."""
        if models != self._models:
            self._models = models
            self._beat()

    def tell_devices(self, devices: tuple[str, ...]) -> None:
        self._devices = devices

    def count_traces(self, traces: Callable[[], int]) -> None:
        """From now on, tell of so many; asked at every beat, by the thread that beats."""
        self._traces = traces

    def _beat_on(self) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            self._beat()

    def _beat(self) -> None:
        beat = WorkerBeat(
            id=self._id,
            host=socket.gethostname(),
            pid=os.getpid(),
            release=RELEASE,
            devices=self._devices,
            started_at=self._started_at,
            beat_at=time.time(),
            models=self._models,
            traces=self._traces(),
            queues=self._queues,
        )
        try:
            pipe = self._client.pipeline()
            pipe.sadd(redis_keys.WORKERS, self._id)
            pipe.set(
                redis_keys.worker_beat(self._id),
                beat.model_dump_json(),
                px=int(BEAT_EXPIRY_SECONDS * 1000),
            )
            pipe.execute()
        except redis.RedisError as error:
            # Redis is away; the next beat tries again.
            log.warning("beat_not_sent", error=type(error).__name__)
