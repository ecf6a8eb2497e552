"""Publishes the metrics of an API process, and adds up those of all processes when asked.

What was shown once is never smaller later: the process that is asked publishes its own counts
before it reads those of all, so the next one that is asked finds them. While Redis does not answer,
counts are left out: each API process knows others of them, and what is asked in turn would fall.
"""

import asyncio
import socket
import time
from typing import Any, cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from contracts.metrics.exposition import IsServed
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
from database.engine import batches
from service.periodic import PeriodicTask
from service.threads import run_in_threadpool

log = structlog.get_logger()

_LAG_SECONDS = 0.1
_READ_SECONDS = 2.0  # a client of Redis repeats calls for longer than a scraper waits
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

    async def read(self) -> tuple[list[dict[str, Any]], Values]:
        """The snapshots of all processes, and what those that ended have left, for `Merged`.

        While Redis does not answer, what this one is using.
        """
        try:
            async with asyncio.timeout(_READ_SECONDS):
                return await self._read()
        except (RedisError, OSError) as error:
            log.debug("metrics_not_read", error=type(error).__name__)
            return [self._snapshots.own_series()], Values()

    async def drop_unserved(self, is_served: IsServed) -> None:
        """Forget the series of versions and models that have been gone for a minute, everywhere.

        This also adds up what dead processes have left, which piles up in Redis while nobody asks
        for the metrics.
        """
        _, kept = await self._read()
        retained = {name: _owner(name) for name in kept}
        owners = {*retained.values(), *map(_owner, self._metrics.read()["c"])} - {None}
        now = time.monotonic()
        gone = {owner for owner in owners if owner and not is_served(*owner)}
        self._unserved = {owner: self._unserved.get(owner, now) for owner in gone}
        dropped = {one for one, since in self._unserved.items() if now - since > _DROP_SECONDS}
        if dropped:
            self._metrics.drop(dropped)
        old = [name for name, owner in retained.items() if owner in dropped]
        for part in batches(old):
            await cast("Any", self._client.hdel(RETAINED, *part))

    async def _run(self) -> None:
        async with self._lock:
            await self._publish_once()

    async def _read(self) -> tuple[list[dict[str, Any]], Values]:
        """The snapshots of all processes and what is retained, with what this one counts now."""
        async with self._lock:
            await self._publish_once()
            answer = await self._fold(keys=FOLD_KEYS, args=FOLD_ARGS)
        return await run_in_threadpool(parse_fold, answer)

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


def _owner(name: str) -> tuple[str, str] | None:
    """The model and version that a series in Redis belongs to."""
    metric, *labels = name.split(SEPARATOR)
    family = FAMILIES.get(metric)
    return None if family is None or len(labels) != len(family.labels) else family.owner(labels)
