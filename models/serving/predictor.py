"""One version from the store, loaded and warmed.

It runs the SavedModel and knows nothing of Keras or of the network's code, so it serves whatever
was published, the zoo and what was trained here alike. What runs it is chosen when it is loaded
(`models.serving.selection`); what explains it (`models.serving.explain`), when that is asked for.
"""

import time
from pathlib import Path

import numpy as np

from contracts.errors import VersionNotFound
from contracts.faces.faces import FACE_MODEL
from contracts.inference.inference import LaneOperation, Operation
from contracts.inference.manifest import Endpoint, Manifest
from contracts.queue.messages import Pixels
from models.explain.results import Explanations, Indices
from models.export.signatures import OUTPUTS, PROBABILITY, TARGET
from models.serving.batching import Batches, Outputs
from models.serving.explain import Explaining
from models.serving.runtime import RuntimeOptions
from models.serving.selection import choose_runtime
from models.store.labels import read_labels
from models.store.manifest import read_manifest
from models.store.store import Store

_ENDPOINTS: dict[Operation, Endpoint] = {"classify": "serve", "embed": "features"}
# A larger batch that gains less than this only makes the first of its pictures wait.
_KNEE = 0.97
# What a batch costs beside its computing, whatever its size: taking it and sending its answers.
_BATCH_SECONDS = 0.003


class VersionPredictor:
    """A model version that answers.

    Args:
        folder: The version's own, from `Store.path`.
        max_batch_size: Most pictures that run together.
        options: What shall run it.

    Attributes:
        manifest: What the version says of itself.
        version: Its number.
        labels: What its classes are called, in the order of the probabilities.
        operations: What it can be asked for.
        classes: Size of the probabilities; None without a classifier.
        runtime: What runs it, e.g. ``openvino-bfloat16``.
        runtime_reason: Why that is not what was asked for; None if it is.
        batch_sizes: The sizes that are run beforehand, and that a batch is padded to if its
            runtime pads, ascending; `warm` drops those beyond the knee.
        load_seconds: What reading, compiling and judging took.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_batch_size: int,
        options: RuntimeOptions = RuntimeOptions(),  # noqa: B008  frozen
    ) -> None:
        started = time.monotonic()
        self.manifest: Manifest = read_manifest(folder)
        chosen = choose_runtime(folder, self.manifest, options)
        self._runtime = chosen.runtime
        self.runtime = chosen.runtime.name
        self.runtime_reason = chosen.reason
        self.load_seconds = time.monotonic() - started
        self.version = self.manifest.version
        self.labels = read_labels(folder)
        self.classes = self.manifest.classes
        endpoints = self.manifest.endpoints
        vectors = [name for name, endpoint in _ENDPOINTS.items() if endpoint in endpoints]
        maps: tuple[LaneOperation, ...] = ("heatmap",) if "explain" in endpoints else ()
        # These two need `model.keras`, which every version has.
        more: tuple[LaneOperation, ...] = ("explain", "study")
        if self.manifest.network == FACE_MODEL and self.classes is None:
            more = ("faces", "clip")  # it has seen nothing but faces, and tells them apart alone
        self.operations: tuple[LaneOperation, ...] = (*vectors, *maps, *more)
        self._batches = Batches.up_to(max_batch_size, chosen.runtime.pads)
        self._explaining = Explaining(folder, self.manifest, chosen.runtime, options)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return self._batches.sizes

    def warm(self, seconds: float = 1.5) -> None:
        """Run every operation at growing batch sizes, so that no request pays for a first run.

        The first operation is measured as well, and the sizes beyond its knee are dropped: those
        that gain less than 3 % a picture over a smaller one.

        Args:
            seconds: A larger batch is tried as long as the operation has not taken longer. What
                a slow network would still gain is little beside what it costs anyhow.
        """
        measured = [name for name in _ENDPOINTS if name in self.operations]
        for operation in measured:
            self._runtime.tune(_ENDPOINTS[operation], self.batch_sizes)
        each = self._costs(measured[0], seconds, rounds=3)
        best = min(each.values())
        knee = next(size for size, took in each.items() if took * _KNEE <= best)
        if knee != max(each):  # else a size that there was no time for might be better still
            sizes = tuple(size for size in self.batch_sizes if size <= knee)
            self._batches = Batches(sizes, self._runtime.pads)
        for operation in measured[1:]:
            self._costs(operation, seconds, rounds=1)

    def _costs(self, operation: Operation, seconds: float, rounds: int) -> dict[int, float]:
        """Seconds a picture at each batch size there is time for, the quickest of some rounds.

        A round is one run of each size, so that what else the machine does meets all of them.
        """
        until = time.monotonic() + seconds
        each: dict[int, float] = {}
        for size in self.batch_sizes:
            each[size] = self._cost_of_one(operation, size)
            if time.monotonic() > until:
                break
        for _ in range(1, rounds):
            for size, before in each.items():
                each[size] = min(before, self._cost_of_one(operation, size))
            if time.monotonic() > until:
                break
        return each

    def _cost_of_one(self, operation: Operation, size: int) -> float:
        images = np.zeros((size, *self.manifest.input_size, 3), np.uint8)
        return (self._timed(operation, images) + _BATCH_SECONDS) / size

    def _timed(self, operation: Operation, images: Pixels) -> float:
        began = time.perf_counter()
        self.run(operation, images)
        return time.perf_counter() - began

    def run(self, operation: Operation, images: Pixels) -> Outputs:
        """Answer for each picture.

        Args:
            operation: One of `operations`.
            images: RGB of the version's input size, shape (n, height, width, 3), uint8; any n.

        Returns:
            float32: probabilities (n, classes), or features (n, features).

        Raises:
            VersionNotFound: `operation` is none of `operations`.
            ValueError: `images` has another shape or dtype.
        """
        if operation not in self.operations:
            raise VersionNotFound(
                f"'{self.manifest.model}' version {self.version} cannot {operation}: it has "
                f"{', '.join(self.operations)} only. Use another version or model."
            )
        width = self.manifest.features if operation == "embed" else self.manifest.classes or 0
        self._check(images)
        endpoint = _ENDPOINTS[operation]
        return self._batches.run(
            lambda chunk: self._runtime.run(endpoint, chunk), images, width=width
        )

    def explain(self, images: Pixels, classes: Indices, *, hires: bool = False) -> Explanations:
        """Why each picture would be of its class; one pass forward and one back.

        Args:
            images: As for `run`, at least one.
            classes: The class to explain of each, shape (n,), int32; a negative one stands for
                the most probable.
            hires: HiResCAM instead of Grad-CAM.
        """
        endpoint = _explains(hires)
        if endpoint not in self.manifest.endpoints:
            raise VersionNotFound(
                f"'{self.manifest.model}' version {self.version} has no classifier, so there is "
                "nothing to explain. Use another version or model."
            )
        self._check(images)
        self.load_explain(hires=hires)
        told = self._explaining.explain(endpoint, images, classes)
        grids, targets, probabilities = (
            told[name] for name in (OUTPUTS[endpoint], TARGET, PROBABILITY)
        )
        return Explanations(grids, targets.astype(np.int32, copy=False), probabilities)

    def can_explain(self, *, hires: bool = False) -> bool:
        """Whether `explain` answers in a moment; else it loads a graph first."""
        return self._explaining.has(_explains(hires))

    def load_explain(self, *, hires: bool = False) -> None:
        """Read what `explain` needs, which nothing else does, and run it; safe among threads."""
        self._explaining.load(_explains(hires), self.batch_sizes)

    @property
    def explain_runtime(self) -> str | None:
        """What explains, e.g. ``openvino-bfloat16``; None before it was asked to."""
        return self._explaining.runtimes.get("explain")

    def _check(self, images: Pixels) -> None:
        if images.dtype != np.uint8 or images.shape[1:] != (*self.manifest.input_size, 3):
            raise ValueError(
                f"{self.manifest.model} takes uint8 pictures of {self.manifest.input_size}, "
                f"not {images.dtype} of shape {images.shape}"
            )


def _explains(hires: bool) -> Endpoint:
    return "explain_hires" if hires else "explain"


def load_version(
    store: Store,
    model: str,
    version: int | str | None = None,
    *,
    max_batch_size: int,
    options: RuntimeOptions = RuntimeOptions(),  # noqa: B008  frozen
) -> VersionPredictor:
    """Load a version from the store; it still has to be warmed.

    Raises:
        ModelNotFound: There is no such model.
        VersionNotFound: It has no such version or alias.
    """
    number = store.resolve(model, version)
    return VersionPredictor(
        store.path(model, number), max_batch_size=max_batch_size, options=options
    )
