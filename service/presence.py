"""Which workers live and what they hold: a picture in memory, refreshed in the background.

A request looks here and never at Redis, so a missing worker costs it microseconds.
"""

import time
from collections.abc import Iterable
from typing import cast

import structlog
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from contracts import names
from contracts.errors import ModelNotReady, NoWorker, VersionNotFound
from contracts.inference import Operation
from contracts.presence import HeldModel, WorkerBeat
from contracts.registry import LaneInfo, ModelInfo
from models.catalog import CATALOG, Network, network_of
from service.rounds import Rounds

log = structlog.get_logger()

_REFRESH_SECONDS = 0.5
_RETRY_SECONDS = 5.0


class Presence:
    """The latest picture of all workers.

    Args:
        client: A connection whose answers are bytes.
        configured: The names in `OPSIN_MODELS`, in order.
    """

    def __init__(self, client: Redis, configured: tuple[str, ...]) -> None:
        self._client = client
        self._configured = configured
        self._rounds = Rounds("presence", self.refresh, seconds=_REFRESH_SECONDS)
        self._rates: dict[str, float] = {}
        self._depths: dict[str, int] = {}
        self.workers: tuple[WorkerBeat, ...] = ()
        self.redis_ok = False
        self.refreshed_at = 0.0

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
        self, model: str | None, version: str | None, operation: Operation
    ) -> tuple[Network, int]:
        """The network and version a request is for.

        Args:
            model: Its name, or None for the first of `OPSIN_MODELS` that can do it.
            version: An integer, an alias, or None for the champion.
            operation: What it has to be able to do.

        Raises:
            ModelNotFound: No such network.
            VersionNotFound: No such version or alias.
            ModelNotReady: Workers live, but none can do it (yet).
            NoWorker: No worker lives.
        """
        if model is not None:
            network = network_of(model)
            number = _version_of(network.name, version)
            self._require(network.name, operation)
            return network, number
        for name in self._configured:
            if name in CATALOG and self._can(name, operation):
                return CATALOG[name], _version_of(name, version)
        self._require(self._configured[0], operation)
        raise ModelNotReady("No model is ready.", retry_after=_RETRY_SECONDS)

    def models(self) -> list[ModelInfo]:
        """Every network of the catalog with its present state."""
        return [self.model(name) for name in CATALOG]

    def model(self, name: str) -> ModelInfo:
        """One network with its present state.

        Raises:
            ModelNotFound: No such network.
        """
        network = network_of(name)
        held = _best(m for worker in self.workers for m in worker.models if m.name == name)
        return ModelInfo(
            name=name,
            network=name,
            state=held.state if held else "unavailable",
            reason=held.reason if held else self._why_nobody(name),
            aliases={"champion": held.version} if held and held.operations else {},
            versions=[held.version] if held and held.operations else [],
            classes=network.classes,
            input_size=network.input_size,
            operations=held.operations if held else (),
            licence=network.licence,
        )

    def _can(self, name: str, operation: Operation) -> bool:
        return any(worker.can(name, operation) for worker in self.workers)

    def _require(self, name: str, operation: Operation) -> None:
        if self._can(name, operation):
            return
        if not self.workers:
            raise NoWorker(
                "No worker is running. Start one, or retry in a moment if one is starting.",
                retry_after=_RETRY_SECONDS,
            )
        info = self.model(name)
        raise ModelNotReady(
            f"'{name}' cannot {operation} now. {info.reason or 'It is still loading.'}",
            retry_after=_RETRY_SECONDS,
        )

    def _why_nobody(self, name: str) -> str:
        if not self.workers:
            return "No worker is running."
        return f"No worker loads it. Add '{name}' to OPSIN_MODELS."

    async def refresh(self) -> None:
        """Look once."""
        try:
            await self._look()
            self.redis_ok = True
        except (RedisError, OSError) as error:
            if self.redis_ok:
                log.warning("redis_lost", error=type(error).__name__)
            self.redis_ok = False
            self.workers = ()
        self.refreshed_at = time.monotonic()

    async def _look(self) -> None:
        members = cast(set[bytes], await self._client.smembers(names.WORKERS))
        ids = [raw.decode() for raw in members]
        beats = await self._client.mget([names.worker_beat(one) for one in ids]) if ids else []
        raws = cast(list[bytes | None], beats)
        gone = [one for one, raw in zip(ids, raws, strict=True) if raw is None]
        if gone:
            await self._client.srem(names.WORKERS, *gone)
        self.workers = tuple(beat for raw in raws if raw and (beat := _beat(raw)))
        await self._look_at_lanes()

    async def _look_at_lanes(self) -> None:
        lanes = sorted(
            {
                names.lane(held.name, held.version, operation)
                for worker in self.workers
                for held in worker.models
                for operation in held.operations
            }
        )
        pipe = self._client.pipeline(transaction=False)
        for lane in lanes:
            pipe.llen(lane)
            pipe.get(names.lane_rate(lane))
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


def _version_of(name: str, version: str | None) -> int:
    if version in (None, "champion", "1"):
        return 1
    raise VersionNotFound(f"'{name}' has no version '{(version or '')[:64]}'. It has: 1.")


def _best(held: Iterable[HeldModel]) -> HeldModel | None:
    """The state of a model that several workers hold: that of the one that is furthest."""
    order = {"ready": 0, "unavailable": 1, "loading": 2}
    return min(held, key=lambda m: (order[m.state], -len(m.operations)), default=None)
