"""Publishes the metrics of an API process, and adds up those of all processes when asked.

What was shown once is never smaller later: the process that is asked publishes its own counts
before it reads those of all, so the next one that is asked finds them. While Redis is away, the
counts that were last read are shown.
"""

import asyncio
import socket
import time
from typing import Any, cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from contracts.metrics.exposition import IsServed, Merged
from contracts.metrics.publishing import (
    FOLD,
    FOLD_ARGS,
    FOLD_KEYS,
    PUBLISH,
    PUBLISH_SECONDS,
    RETAINED,
    Snapshots,
    parse_fold,
)
from contracts.metrics.registry import SEPARATOR, Metrics, Values
from contracts.metrics.table import FAMILIES
from service.periodic import PeriodicTask

log = structlog.get_logger()

_LAG_SECONDS = 0.1
_READ_SECONDS = 3.0  # shorter than a scrape may take; then the counts that were last read are shown
_DROP_SECONDS = 60.0  # longer than all workers take to drop a version


class MetricsService:
    """The metrics of this process, and of all processes together.

    Args:
        client: A connection whose answers are bytes.
        metrics: Of this process.
        process: The id of this process.
    """

    def __init__(self, client: Redis, metrics: Metrics, process: str) -> None:
        self._client = client
        self._metrics = metrics
        self._publish: Any = client.register_script(PUBLISH)
        self._fold: Any = client.register_script(FOLD)
        self._snapshots = Snapshots(metrics, process, "api", socket.gethostname())
        self._lock = asyncio.Lock()
        self._last: tuple[list[dict[str, Any]], Values] = ([], {})
        self._unserved: dict[tuple[str, str], float] = {}
        self._lag = 0.0
        self._tasks = (
            PeriodicTask("metrics", self._run, seconds=PUBLISH_SECONDS),
            PeriodicTask("event-loop-lag", self._measure_lag, seconds=0),
        )
        metrics.before_reading(self._report_lag)

    def start(self) -> None:
        for task in self._tasks:
            task.start()

    async def stop(self) -> None:
        """Publish the last counts; they need not expire before they are retained."""
        for task in self._tasks:
            await task.stop()
        try:
            await self._publish_once(alive_seconds=0)
        except (RedisError, OSError) as error:
            log.warning("metrics_not_sent", error=type(error).__name__)

    async def merged(self) -> Merged:
        """The metrics of all processes; the last known ones while Redis does not answer."""
        try:
            async with asyncio.timeout(_READ_SECONDS), self._lock:
                await self._publish_once()
                answer = await self._fold(keys=FOLD_KEYS, args=FOLD_ARGS)
            self._last = parse_fold(answer)
        except (RedisError, OSError) as error:
            log.debug("metrics_not_read", error=type(error).__name__)
        snapshots, retained = self._last
        merged = Merged()
        merged.add_values(retained)
        for snapshot in snapshots:
            merged.add(snapshot)
        merged.set("metrics_processes", len(snapshots))
        return merged

    async def drop_unserved(self, is_served: IsServed) -> None:
        """Forget the series of versions that have not been served for a minute, here and there."""
        fields = [name.split(SEPARATOR) for name in self._last[1]]
        own = [name.split(SEPARATOR) for name in self._metrics.read()["c"]]
        versions = {
            (field[1], field[2])
            for field in (*fields, *own)
            if (family := FAMILIES.get(field[0])) and family.is_per_version and field[1]
        }
        now = time.monotonic()
        gone = {version for version in versions if not is_served(*version)}
        self._unserved = {version: self._unserved.get(version, now) for version in gone}
        for version in [v for v, since in self._unserved.items() if now - since > _DROP_SECONDS]:
            self._metrics.drop_version(*version)
            old = [SEPARATOR.join(one) for one in fields if tuple(one[1:3]) == version]
            if old:
                await cast("Any", self._client.hdel(RETAINED, *old))

    async def _run(self) -> None:
        async with self._lock:
            await self._publish_once()

    async def _publish_once(self, **options: float) -> None:
        while True:
            args = self._snapshots.next_args(**options)
            if self._snapshots.accepted(await self._publish(keys=self._snapshots.keys, args=args)):
                return

    async def _measure_lag(self) -> None:
        began = time.monotonic()
        await asyncio.sleep(_LAG_SECONDS)
        self._lag = max(self._lag, time.monotonic() - began - _LAG_SECONDS)

    def _report_lag(self) -> None:
        self._metrics.set("event_loop_lag_seconds", self._lag)
        self._lag = 0.0
