"""The versions a worker has in memory, and which of them answers for which alias.

Written by the thread that loads and evicts (`workers.inference.model_manager`), read by the threads
that compute. A caller that has got a version keeps it alive, so eviction never disturbs a batch.
"""

from typing import Protocol

from contracts.inference.inference import Operation, VectorOperation
from contracts.inference.manifest import Manifest
from contracts.queue.messages import Pixels, Vector
from contracts.queue.redis_keys import QueueGroup
from models.catalog import queue_of
from models.explain.results import Explanations, Indices
from models.store.labels import Label

_DIGEST_LENGTH = 32


class SharedBase(Protocol):
    """What several versions compute alike; `models.serving` has the implementation."""

    @property
    def digest(self) -> str:
        """Hexadecimal; the same on every host."""
        ...

    def run(self, images: Pixels) -> Vector:
        """Images (n, h, w, 3) uint8 to what `Predictor.finish` takes, one row for each."""
        ...


class Predictor(Protocol):
    """What runs a batch; `models.serving.predictor` has the implementation.

    Attributes:
        base: The same object in all versions that it computes for; None if the version shares none.
    """

    version: int
    manifest: Manifest
    labels: tuple[Label, ...]
    operations: tuple[Operation, ...]
    runtime: str
    runtime_reason: str | None

    @property
    def base(self) -> SharedBase | None: ...

    @property
    def batch_sizes(self) -> tuple[int, ...]: ...

    @property
    def batch_limit(self) -> int:
        """The most images of a batch."""
        ...

    @property
    def batch_threads(self) -> int:
        """How many threads should answer batches."""
        ...

    @property
    def explain_runtime(self) -> str | None: ...

    def can_explain(self, *, hires: bool = False) -> bool: ...

    def load_explain(self, *, hires: bool = False) -> None:
        """Load what `explain` needs in addition; may take seconds."""
        ...

    def run(self, operation: VectorOperation, images: Pixels) -> Vector:
        """Images (n, h, w, 3) uint8 to outputs (n, k) float32."""
        ...

    def finish(self, operation: VectorOperation, base_output: Vector) -> Vector:
        """As `run`, from what the base gave for the images."""
        ...

    def explain(self, images: Pixels, classes: Indices, *, hires: bool = False) -> Explanations:
        """Heatmaps of the given classes; a negative class means the most probable one."""
        ...


def group_of(model: str, predictor: Predictor) -> QueueGroup | None:
    """The queues whose images may run together with those of a version.

    They have one Celery queue, so that every worker that gets the group's tasks can hold all of
    its versions.
    """
    if predictor.base is None:
        return None
    return QueueGroup(f"{queue_of(model)}/{predictor.base.digest[:_DIGEST_LENGTH]}")


class LoadedModels:
    """The versions in memory. Each method is atomic for other threads."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, int], Predictor] = {}
        self._active: dict[str, dict[str, int]] = {}

    def get(self, model: str, version: int) -> Predictor | None:
        return self._versions.get((model, version))

    def group(self, model: str, version: int) -> QueueGroup | None:
        """The group of a version's queues; None without a base, or if it is not loaded."""
        predictor = self.get(model, version)
        return None if predictor is None else group_of(model, predictor)

    def versions(self, model: str) -> list[int]:
        """The numbers of a model's versions, in ascending order."""
        return sorted(version for name, version in self.all() if name == model)

    def all(self) -> list[tuple[str, int]]:
        """Model and number of every version."""
        return list(self._versions)

    def active(self, model: str, alias: str) -> Predictor | None:
        """The version that answers for an alias: its own, or the previous one until that loads."""
        version = self.aliases(model).get(alias)
        return None if version is None else self.get(model, version)

    def aliases(self, model: str) -> dict[str, int]:
        """The version that answers for each alias of a model."""
        return self._active.get(model, {})

    def add(self, model: str, predictor: Predictor) -> None:
        self._versions[model, predictor.version] = predictor

    def activate(self, model: str, aliases: dict[str, int]) -> None:
        """Let these versions answer for these aliases from now on, and for no others."""
        self._active[model] = aliases

    def remove(self, model: str, version: int) -> None:
        self._versions.pop((model, version), None)
