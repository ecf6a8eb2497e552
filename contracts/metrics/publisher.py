"""The thread of a worker that publishes its metrics."""

import socket
from threading import Event, Lock, Thread
from typing import Any, cast

import redis
import structlog

from contracts.metrics.publishing import PUBLISH, PUBLISH_SECONDS, Snapshots
from contracts.metrics.registry import Metrics

log = structlog.get_logger()


class MetricsPublisher:
    """Publishes once a second until it is stopped, and then once more.

    Args:
        client: Its connections are used.
        metrics: What to publish.
        process: Its id, unique to this run.
        kind: `worker`, `jobs` or `job`.
    """

    def __init__(self, client: "redis.Redis", metrics: Metrics, process: str, kind: str) -> None:
        self._publish_script: Any = client.register_script(PUBLISH)
        self._snapshots = Snapshots(metrics, process, kind, socket.gethostname())
        self._lock = Lock()
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def publish(self) -> None:
        """Publish now what has been counted."""
        self._publish()

    def stop(self) -> None:
        """Publish the last counts; they need not expire before they are retained."""
        self._stopped.set()
        self._thread.join(2 * PUBLISH_SECONDS)
        self._publish(alive_seconds=0)

    def _run(self) -> None:
        while not self._stopped.wait(PUBLISH_SECONDS):
            self._publish()

    def _publish(self, **options: float) -> None:
        with self._lock:
            try:
                while True:
                    args = self._snapshots.next_args(**options)
                    answer = self._publish_script(keys=self._snapshots.keys, args=args)
                    if self._snapshots.accepted(cast(int, answer)):
                        return
            except redis.RedisError as error:
                log.debug("metrics_not_sent", error=type(error).__name__)
            except Exception:
                # Counting must never stop what is counted.
                log.exception("metrics_not_sent")
