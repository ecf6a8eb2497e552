"""The versions a worker has in memory, and which of them answers for which alias.

Written by the one thread that loads and drops (`workers.inference.model_manager`), read by whoever
computes. Who has taken a version out keeps it alive until done, so dropping never disturbs a batch.
"""

from typing import Protocol

from contracts.inference.inference import LaneOperation, Operation
from contracts.inference.manifest import Manifest
from contracts.queue.messages import Pixels, Vector
from models.explain.results import Explanations, Indices
from models.store.labels import Label


class Predictor(Protocol):
    """What runs a batch; `models.serving.predictor` has the real one."""

    version: int
    manifest: Manifest
    labels: tuple[Label, ...]
    operations: tuple[LaneOperation, ...]
    runtime: str
    runtime_reason: str | None

    @property
    def batch_sizes(self) -> tuple[int, ...]: ...

    @property
    def explain_runtime(self) -> str | None: ...

    def can_explain(self, *, hires: bool = False) -> bool: ...

    def load_explain(self, *, hires: bool = False) -> None:
        """Read what `explain` needs beyond the rest; it may take seconds."""
        ...

    def run(self, operation: Operation, images: Pixels) -> Vector:
        """Images (n, h, w, 3) uint8 to outputs (n, k) float32."""
        ...

    def explain(self, images: Pixels, classes: Indices, *, hires: bool = False) -> Explanations:
        """Why each image would be of its class; a negative class is the most probable."""
        ...


class Held:
    """The versions in memory. Each method is one step that other threads see whole."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, int], Predictor] = {}
        self._standing: dict[str, dict[str, int]] = {}

    def get(self, model: str, version: int) -> Predictor | None:
        return self._versions.get((model, version))

    def versions(self, model: str) -> list[int]:
        """The numbers of a model's versions, in ascending order."""
        return sorted(version for name, version in self.all() if name == model)

    def all(self) -> list[tuple[str, int]]:
        """Model and number of every version."""
        return list(self._versions)

    def standing(self, model: str, alias: str) -> Predictor | None:
        """What answers for an alias: its own version, or the one before until that is loaded."""
        version = self._standing.get(model, {}).get(alias)
        return None if version is None else self.get(model, version)

    def aliases(self, model: str) -> dict[str, int]:
        """The version that answers for each alias of a model."""
        return self._standing.get(model, {})

    def put(self, model: str, predictor: Predictor) -> None:
        self._versions[model, predictor.version] = predictor

    def stand(self, model: str, aliases: dict[str, int]) -> None:
        self._standing[model] = aliases

    def drop(self, model: str, version: int) -> None:
        self._versions.pop((model, version), None)
