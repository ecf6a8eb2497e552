"""What a worker reports about itself once a second, so that the API knows which worker can do what.

`HeartbeatPublisher` in `workers.inference.heartbeat` writes heartbeats; the functions
of this module read them.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, cast

from pydantic import BaseModel, Field, ValidationError

from contracts.inference.inference import Operation
from contracts.queue import redis_keys

ModelState = Literal["ready", "loading", "unavailable"]

HEARTBEAT_SECONDS = 1.0
HEARTBEAT_EXPIRE_SECONDS = 4.0


class HeldModel(BaseModel):
    """The state of one version of a model in one worker."""

    name: str
    version: int | None = Field(None, description="Null until it is known which one to load.")
    state: ModelState
    reason: str | None = Field(None, description="Why it is not ready, and what to do about it.")
    operations: tuple[Operation, ...] = ()
    aliases: tuple[str, ...] = Field(
        (),
        description="The aliases that it answers for in this worker: those that point to it, and "
        "those whose own version this worker has not loaded yet.",
    )
    classes: int | None = None
    runtime: str | None = Field(None, description="What runs it, e.g. openvino-bfloat16.")
    runtime_reason: str | None = Field(
        None, description="Why that is not the requested runtime; null if it is."
    )
    batch_sizes: tuple[int, ...] = ()
    group: str | None = Field(
        None,
        description="The `QueueGroup` whose images may run together with those of this version; "
        "null if it has its base for itself.",
    )


class BatchStatistics(BaseModel):
    """The batches of one size."""

    size: int = Field(description="Images in each.")
    batches: int
    compute_seconds: float


class VersionStatistics(BaseModel):
    """What one version has classified and embedded in one worker since that started."""

    model: str
    version: int
    images: int = Field(description="Answered images.")
    failed: int = Field(description="Images that the network failed on.")
    queue_seconds: float = Field(description="The waiting times of all images, added up.")
    last_at: float = Field(description="Unix time in seconds of the last batch.")
    batches: tuple[BatchStatistics, ...] = ()


class WorkerBeat(BaseModel):
    """A worker's heartbeat. It expires in Redis when the worker stops sending it."""

    id: str
    host: str
    pid: int
    release: str = Field(description="The worker's version of Opsin.")
    installation: str | None = Field(
        None, description="The id of its home; null if that has none or it is of an older release."
    )
    devices: tuple[str, ...] = ()
    started_at: float = Field(description="Unix time in seconds.")
    beat_at: float = Field(description="Unix time in seconds.")
    reads_origins: bool = Field(
        False, description="Whether it understands which request an image belongs to."
    )
    shared_pixels: tuple[str, ...] = Field(
        (), description="The names of the `SharedPixels` that it has open, in hexadecimal digits."
    )
    reads_groups: bool = Field(False, description="Whether it understands tasks for a group.")
    clock_ahead: float | None = Field(
        None,
        description="Seconds by which the clock of its host is ahead of the clock of Redis; null "
        "if not measured.",
    )
    models: tuple[HeldModel, ...] = ()
    traces: int = Field(
        0,
        description="Graphs traced so far for the explainers in memory; further requests of the "
        "same kinds add none.",
    )
    statistics: tuple[VersionStatistics, ...] = ()
    queues: dict[str, int] = Field(
        {}, description="For a job worker: how many jobs of each queue it runs at a time."
    )

    def loaded_versions(self, model: str) -> dict[int, HeldModel]:
        """The versions of a model that this worker answers with, by number."""
        return {
            held.version: held
            for held in self.models
            if held.name == model and held.version is not None and held.operations
        }


class RedisClient(Protocol):
    """What the readers need of a connection whose answers are bytes; it may be asynchronous."""

    def smembers(self, name: str, /) -> Any: ...

    def mget(self, keys: list[str], /) -> Any: ...

    def srem(self, name: str, /, *values: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class Heartbeats:
    """The heartbeats of all live workers at one moment.

    Attributes:
        workers: Those that could be read.
        unreadable: The rest, as JSON: those of workers of another release.
        expired: Ids of workers that have stopped and are still listed.
    """

    workers: tuple[WorkerBeat, ...] = ()
    unreadable: tuple[bytes, ...] = ()
    expired: tuple[str, ...] = ()

    @classmethod
    def parse(cls, ids: Sequence[str], values: Iterable[bytes | None]) -> Self:
        """Read what Redis returned for the heartbeat keys of `ids`."""
        workers, unreadable, expired = [], [], []
        for worker_id, value in zip(ids, values, strict=True):
            if value is None:
                expired.append(worker_id)
                continue
            try:
                workers.append(WorkerBeat.model_validate_json(value))
            except ValidationError:
                unreadable.append(value)
        return cls(tuple(workers), tuple(unreadable), tuple(expired))

    def releases(self) -> set[str]:
        """The releases of all workers, including those whose heartbeat cannot be read.

        Raises:
            ValueError: A heartbeat is not JSON.
            AttributeError: A heartbeat is not a JSON object.
        """
        others = {str(json.loads(value).get("release")) for value in self.unreadable}
        return {worker.release for worker in self.workers} | others


def read_heartbeats(client: RedisClient) -> Heartbeats:
    """Read the heartbeats of all workers.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    ids, keys = _listed(client.smembers(redis_keys.WORKERS))
    return Heartbeats.parse(ids, cast("list[bytes | None]", client.mget(keys)) if keys else ())


async def read_heartbeats_async(client: RedisClient) -> Heartbeats:
    """As `read_heartbeats`; in addition, ids of workers that have stopped are removed."""
    ids, keys = _listed(await client.smembers(redis_keys.WORKERS))
    values = cast("list[bytes | None]", await client.mget(keys)) if keys else ()
    heartbeats = Heartbeats.parse(ids, values)
    if heartbeats.expired:
        await client.srem(redis_keys.WORKERS, *heartbeats.expired)
    return heartbeats


def _listed(members: object) -> tuple[list[str], list[str]]:
    """The ids of the workers in the set, and the keys of their heartbeats."""
    ids = [raw.decode() for raw in cast("set[bytes]", members)]
    return ids, [redis_keys.heartbeat_key(worker_id) for worker_id in ids]
