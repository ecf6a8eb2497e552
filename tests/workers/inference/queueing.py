"""A batcher with a small network and a real Valkey, to which the API's client pushes."""

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any, TypeVar

import numpy as np
import redis
import redis.asyncio

from contracts.errors import LayerNotFound
from contracts.inference.inference import Operation, VectorOperation
from contracts.queue.messages import Item, Pixels, Reply, Vector
from contracts.queue.redis_keys import QueueGroup, QueueName
from service.queue.admission import QueueLimits
from service.queue.client import QueueClient
from tests.valkey import RealValkey
from workers.inference.batcher import Batcher
from workers.inference.loaded_models import LoadedModels
from workers.inference.queue import ItemOutput, WorkerQueues

QUEUE = QueueName("squeezenet", 1, "classify")
OTHER = QueueName("vgg16", 1, "classify")
T = TypeVar("T")


class Mean:
    """A network small enough to check by hand: the mean of each channel."""

    batch_sizes = (1, 2, 4, 8, 16)
    batch_limit = 16
    batch_threads = 1
    version = 1
    base = None

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.during: Callable[[], object] = lambda: None

    def run(self, operation: VectorOperation, images: Pixels) -> Vector:
        self.batches.append(len(images))
        self.during()
        if (images == 13).all(axis=(1, 2, 3)).any():
            raise ValueError("an image that breaks the network")
        return images.mean(axis=(1, 2)).astype(np.float32)


class StubExplainer:
    """Explains an image by its class, and records which were explained together."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.during: Callable[[Callable[[], None]], object] = lambda run_faster: None

    def compute(
        self,
        queue: QueueName,
        predictor: Any,
        items: Sequence[Item],
        run_faster: Callable[[], None],
    ) -> list[ItemOutput]:
        self.batches.append((queue.operation, [item.class_index for item in items]))
        if any(item.note == b"no such layer" for item in items):
            raise LayerNotFound("There is no such layer. Choose another.")
        self.during(run_faster)
        return [ItemOutput(np.full(4, item.class_index, np.float32), b"a note") for item in items]


def handlers(explainer: StubExplainer) -> dict[Operation, StubExplainer]:
    return {"heatmap": explainer, "explain": explainer, "study": explainer}


@dataclass
class RecordingForwarder:
    """Records what would have been sent to Celery."""

    another_worker: bool = False
    scheduled: list[QueueName] = field(default_factory=list)
    forwarded: list[QueueName] = field(default_factory=list)

    def schedule(self, queue: QueueName, group: QueueGroup | None = None) -> None:
        assert group is None
        self.scheduled.append(queue)

    def forward_batch(self, queue: QueueName, group: QueueGroup | None = None) -> bool:
        assert group is None
        if self.another_worker:
            self.forwarded.append(queue)
        return self.another_worker


class Aliases:
    """A store in which aliases point to these versions of every model."""

    def __init__(self, *versions: int) -> None:
        self._aliases = {f"alias-{version}": version for version in versions}

    def aliases(self, _model: str) -> dict[str, int]:
        return self._aliases


def batcher_of(
    client: redis.Redis,
    network: Mean,
    *,
    store: Aliases | None = None,
    forwarder: RecordingForwarder | None = None,
    explainer: StubExplainer | None = None,
    **changes: Any,
) -> Batcher:
    options: dict[str, Any] = {"batch_limit": 4, "linger_seconds": 0.01}
    options |= {"stopping": Event(), "clock": time.time}
    models = LoadedModels()
    models.add("squeezenet", network)
    models.add("vgg16", network)
    return Batcher(
        WorkerQueues(client, "w1", ["inference.squeezenet", "inference.vgg16"]),
        models,
        store or Aliases(1, 7),  # type: ignore[arg-type]
        forwarder or RecordingForwarder(),  # type: ignore[arg-type]
        handlers(explainer or StubExplainer()),
        **(options | changes),
    )


def item_of(value: int, *, seconds: float = 30, side: int = 2) -> Item:
    now = time.time()
    pixels = np.full((side, side, 3), value, np.uint8)
    return Item(secrets.token_bytes(16), now + seconds, now, "replies:test", pixels)


def with_client(valkey: RealValkey, use: Callable[[QueueClient], Coroutine[Any, Any, T]]) -> T:
    async def body() -> T:
        async with redis.asyncio.Redis.from_url(valkey.url) as connection:
            return await use(QueueClient(connection, QueueLimits(8)))

    return asyncio.run(body())


def push(valkey: RealValkey, *items: Item, admitted: bool = False) -> tuple[bool, bool, int]:
    result = with_client(valkey, lambda s: s.push(QUEUE, items, seconds=30, admitted=admitted))
    return result.accepted, result.must_schedule, result.depth


def replies(client: redis.Redis) -> dict[bytes, Reply]:
    return {r.id: r for r in map(Reply.unpack, client.lrange("replies:test", 0, -1))}
