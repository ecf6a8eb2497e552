"""Which workers live and what they hold: a picture in memory, refreshed in the background.

A request looks here and never at Redis, so a missing worker costs it microseconds.
"""

import asyncio
import time
from typing import cast

import structlog
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from contracts.errors import OpsinError
from contracts.inference.inference import LaneOperation
from contracts.inference.registry import LaneInfo, ModelInfo
from contracts.queue import redis_keys
from contracts.queue.heartbeat import WorkerBeat
from models.store.snapshot import Served, Shelves
from models.store.store import Store
from service.periodic import Rounds
from service.queue.version_routing import Choice

log = structlog.get_logger()

_REFRESH_SECONDS = 0.5
_WAIT_SECONDS = 0.1


class Presence:
    """The latest picture of all workers, and of the store they serve from.

    Args:
        client: A connection whose answers are bytes.
        configured: The names in `OPSIN_MODELS`, in order.
        store: What the workers serve from.
    """

    def __init__(self, client: Redis, configured: tuple[str, ...], store: Store) -> None:
        self._client = client
        self._configured = configured
        self._store = store
        self._choice = Choice(configured, Shelves(), ())
        self._looking = asyncio.Lock()
        self._rounds = Rounds("presence", self.refresh, seconds=_REFRESH_SECONDS)
        self._job_workers: tuple[WorkerBeat, ...] = ()
        self._rates: dict[str, float] = {}
        self._depths: dict[str, int] = {}
        self.redis_ok = False
        self.refreshed_at = 0.0

    @property
    def workers(self) -> tuple[WorkerBeat, ...]:
        """Those that live and serve models."""
        return self._choice.workers

    @property
    def job_workers(self) -> tuple[WorkerBeat, ...]:
        """Those that live and run long jobs."""
        return self._job_workers

    async def start(self) -> None:
        await self.refresh()
        self._rounds.start()

    async def stop(self) -> None:
        await self._rounds.stop()

    def rate(self, lane: str) -> float | None:
        """Images a second that lane drains, or None if it was not seen draining lately."""
        return self._rates.get(lane)

    def queues(self) -> list[LaneInfo]:
        return [
            LaneInfo(name=lane, depth=depth, drain_rate=self.rate(lane))
            for lane, depth in sorted(self._depths.items())
        ]

    def choose(
        self, model: str | None, version: str | None, operation: LaneOperation
    ) -> tuple[Served, int]:
        """The version a request is for: one that a worker really holds.

        Args:
            model: Its name, or None for the first of `OPSIN_MODELS` that can do it.
            version: An integer, an alias, or None for the champion.
            operation: What it has to be able to do.

        Raises:
            ModelNotFound: No such model.
            VersionNotFound: No such version or alias.
            ModelNotReady: Workers live, but none can do it (yet).
            NoWorker: No worker lives.
        """
        for name in (model,) if model is not None else self._configured:
            chosen = self._choice.choose(name, version, operation)
            if chosen is not None:
                return chosen, chosen.manifest.version
        raise self._choice.refusal(model or self._configured[0], version, operation)

    def models(self) -> list[ModelInfo]:
        """Every model of the catalog, the settings and the store with its present state."""
        return [self._choice.info(name) for name in self._choice.names()]

    async def until_served(self, model: str, version: int, *, seconds: float) -> bool:
        """Wait until a live worker holds a version; False if none does in that time.

        No longer than it makes sense: if no worker lives, or those that tried have failed.
        """
        until = time.monotonic() + seconds
        while True:
            await self.refresh()
            fate = self._choice.fate(model, version)
            if fate is not None or time.monotonic() + _WAIT_SECONDS > until:
                return fate is True
            await asyncio.sleep(_WAIT_SECONDS)

    async def refresh(self) -> None:
        """Look once. An older look never ends after a newer one, nor hides what that one saw."""
        async with self._looking:
            await self._refresh()

    async def _refresh(self) -> None:
        try:
            await self._look()
            self.redis_ok = True
        except (RedisError, OSError) as error:
            if self.redis_ok:
                log.warning("redis_lost", error=type(error).__name__)
            self.redis_ok = False
            self._choice = Choice(self._configured, self._choice.shelves, ())
            self._job_workers = ()
        self.refreshed_at = time.monotonic()

    async def _look(self) -> None:
        members = cast(set[bytes], await self._client.smembers(redis_keys.WORKERS))
        ids = [raw.decode() for raw in members]
        found = await self._client.mget([redis_keys.worker_beat(one) for one in ids]) if ids else []
        raws = cast(list[bytes | None], found)
        gone = [one for one, raw in zip(ids, raws, strict=True) if raw is None]
        if gone:
            await self._client.srem(redis_keys.WORKERS, *gone)
        beats = tuple(beat for raw in raws if raw and (beat := _beat(raw)))
        workers = tuple(beat for beat in beats if not beat.queues)
        self._job_workers = tuple(beat for beat in beats if beat.queues)
        # After the workers, and shown with them at once: a version that answers is known.
        shelves = await self._look_at_store(workers)
        self._choice = Choice(self._configured, shelves, workers)
        await self._look_at_lanes()

    async def _look_at_store(self, workers: tuple[WorkerBeat, ...]) -> Shelves:
        before = self._choice.shelves
        held = {
            (one.name, one.version)
            for worker in workers
            for one in worker.models
            if one.operations and one.version is not None
        }
        try:
            return await asyncio.to_thread(before.renewed, self._store, held)
        except (OSError, ValueError, OpsinError):
            log.exception("store_unreadable")
            return before

    async def _look_at_lanes(self) -> None:
        lanes = sorted(
            {
                redis_keys.lane(held.name, held.version, operation)
                for worker in self.workers
                for held in worker.models
                for operation in held.operations
                if held.version is not None
            }
        )
        pipe = self._client.pipeline(transaction=False)
        for lane in lanes:
            pipe.llen(lane)
            pipe.get(redis_keys.lane_rate(lane))
        found = await pipe.execute() if lanes else []
        self._depths = dict(zip(lanes, found[::2], strict=True))
        self._rates = {
            lane: float(raw) for lane, raw in zip(lanes, found[1::2], strict=True) if raw
        }


def _beat(raw: bytes) -> WorkerBeat | None:
    try:
        return WorkerBeat.model_validate_json(raw)
    except ValidationError:
        # A worker of another release; `opsin doctor` tells of the skew.
        log.warning("beat_unreadable")
        return None
