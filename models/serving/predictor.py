"""One version from the store, loaded and warmed up.

It runs the SavedModel and uses neither Keras nor the network's code, so it serves every published
version, from the catalog or trained here. The runtime is selected when the version is loaded
(`models.serving.selection`), that of explanations when they are first used
(`models.serving.explain`).
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from contracts.errors import Unavailable, VersionNotFound
from contracts.faces.faces import FACE_MODEL
from contracts.inference.inference import Operation, VectorOperation
from contracts.inference.manifest import Endpoint, Manifest
from contracts.queue.messages import Pixels
from models.explain.results import Explanations, Indices
from models.export.endpoints import OUTPUTS, PROBABILITY, TARGET
from models.serving.batching import Batches, Outputs
from models.serving.explain import ExplainEndpoints
from models.serving.openvino.shared_base import BaseOutput, SharedBase
from models.serving.runtime import RuntimeOptions
from models.serving.selection import choose_runtime
from models.store.labels import read_labels
from models.store.manifest import read_manifest
from models.store.store import Store

_ENDPOINTS: dict[VectorOperation, Endpoint] = {"classify": "serve", "embed": "features"}
# A larger batch that gains less than this only makes its first images wait.
_KNEE = 0.97
# The fixed cost of a batch besides computing: taking its items and sending their replies.
_BATCH_SECONDS = 0.003
# Nothing interrupts a batch, so the images of all other models wait for it.
_MAX_BATCH_SECONDS = 0.5
_MAX_IMAGE_SECONDS = 10.0
_MOST_BUSY = 4.0


class VersionPredictor:
    """A loaded model version.

    Args:
        folder: The version's, from `Store.path`.
        max_batch_size: The most images that run together.
        options: The requested runtime.

    Attributes:
        manifest: The version's.
        version: Its number.
        labels: Its classes, in the order of the probabilities.
        operations: The operations that it supports.
        classes: The number of probabilities; None without a classifier.
        runtime: Its runtime, e.g. ``openvino-bfloat16``.
        runtime_reason: Why that is not the requested one; None if it is.
        base: What may compute its images together with those of other versions, whose `base` is the
            same object then; None if nothing may.
        batch_sizes: The sizes to warm up, and to pad a batch to if the runtime pads, ascending;
            `warm` drops those beyond the knee, and those that take too long.
        load_seconds: The duration of reading, compiling and checking.
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
        selected = choose_runtime(folder, self.manifest, options)
        self._runtime = selected.runtime
        self.runtime = selected.runtime.name
        self.runtime_reason = selected.reason
        self.base: SharedBase | None = selected.runtime.base
        self.load_seconds = time.monotonic() - started
        self.version = self.manifest.version
        self.labels = read_labels(folder)
        self.classes = self.manifest.classes
        endpoints = self.manifest.endpoints
        vectors = [name for name, endpoint in _ENDPOINTS.items() if endpoint in endpoints]
        maps: tuple[Operation, ...] = ("heatmap",) if "explain" in endpoints else ()
        # These two need `model.keras`, which every version has.
        more: tuple[Operation, ...] = ("explain", "study")
        if self.manifest.network == FACE_MODEL and self.classes is None:
            more = ("faces", "clip")  # it embeds faces and nothing else
        self.operations: tuple[Operation, ...] = (*vectors, *maps, *more)
        self._batches = Batches.up_to(max_batch_size, selected.runtime.pads)
        self._threads = options.threads
        self._explain_endpoints = ExplainEndpoints(folder, self.manifest, selected.runtime, options)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return self._batches.sizes

    @property
    def batch_limit(self) -> int:
        """The most images of a batch: those that are computed at once share the largest size."""
        return -(-self.batch_sizes[-1] // self._runtime.parallel_batches)

    @property
    def batch_threads(self) -> int:
        """How many threads should answer batches."""
        return max(self._runtime.parallel_batches, 2 if self._runtime.prepares else 1)

    def warm(self, seconds: float = 1.5) -> None:
        """Run every operation at growing batch sizes, so that no request pays for a first run.

        The first operation is also measured, and the sizes beyond its knee are dropped: those
        that gain less than 3% for each image over a smaller one. Of the time that passes and the
        processor time, the one with the later knee counts. On a machine that is busy when a version
        is loaded, single images may seem cheap only because nothing came in between; with a limit
        of one image, each took 1.5 times as much from then on.

        Sizes that take more than half a second are dropped as well, but one image always remains.
        Other load counts for at most three quarters of what passes. What was not tried would cost
        as much for each image as the largest size that was.

        What was measured for a base is not measured again for the next version that shares it.

        Args:
            seconds: Larger batches are tried until an operation has taken this long. A slow
                network would gain little from them.

        Raises:
            Unavailable: One image takes so long that others would wait too long for it.
        """
        measured = [name for name in _ENDPOINTS if name in self.operations]
        largest = self.batch_sizes[-1]
        known = self.base and self.base.batch_sizes.get(largest)
        if known:  # the parity gate has run the heads
            self._batches = Batches(known, self._runtime.pads)
            return
        self._runtime.parallelize()
        costs = self._costs(measured[0], seconds, rounds=3)
        alone = costs.alone(self._threads)
        self._require_speed(alone[self.batch_sizes[0]])
        limit = _most_in_time(alone, self.batch_sizes)
        knee = max(map(_knee, (costs.passed, costs.used)))
        if knee != max(costs.passed):  # otherwise a size that was not tried might be better
            limit = min(limit, knee)
        sizes = tuple(size for size in self.batch_sizes if size <= limit)
        self._batches = Batches(sizes, self._runtime.pads)
        if self.base is not None:
            self.base.batch_sizes[largest] = self.batch_sizes
            return
        for operation in measured[1:]:
            self._costs(operation, seconds, rounds=1)

    def _require_speed(self, seconds: float) -> None:
        if seconds > _MAX_IMAGE_SECONDS:
            raise Unavailable(
                f"Version {self.version} takes {seconds:.0f} seconds for one image, and the images "
                f"of all models would wait for it; {_MAX_IMAGE_SECONDS:.0f} are the limit. Use a "
                "smaller image_size or network, or a faster machine."
            )

    def _costs(self, operation: VectorOperation, seconds: float, rounds: int) -> "_Costs":
        """What an image costs at each batch size there is time for, the least of some rounds.

        A round is one run of each size, so that other load on the machine affects all of them.
        """
        deadline = time.monotonic() + seconds
        costs = _Costs({}, {})
        for size in self.batch_sizes:
            self._measure(operation, size, costs)
            if time.monotonic() > deadline:
                break
        for _ in range(1, rounds):
            for size in tuple(costs.passed):
                self._measure(operation, size, costs)
            if time.monotonic() > deadline:
                break
        return costs

    def _measure(self, operation: VectorOperation, size: int, costs: "_Costs") -> None:
        images = np.zeros((size, *self.manifest.input_size, 3), np.uint8)
        passed, used = self._timed(operation, images)
        for known, seconds in ((costs.passed, passed), (costs.used, used)):
            known[size] = min(known.get(size, math.inf), (seconds + _BATCH_SECONDS) / size)

    def _timed(self, operation: VectorOperation, images: Pixels) -> tuple[float, float]:
        """The seconds that pass during a run, and the processor time of all threads."""
        passed, used = time.perf_counter(), time.process_time()
        self.run(operation, images)
        return time.perf_counter() - passed, time.process_time() - used

    def run(self, operation: VectorOperation, images: Pixels) -> Outputs:
        """The output for each image.

        Args:
            operation: `classify` or `embed`.
            images: RGB of the version's input size, shape (n, height, width, 3), uint8; any n.

        Returns:
            float32: probabilities (n, classes), or features (n, features).

        Raises:
            VersionNotFound: The version does not support the operation.
            ValueError: `images` has another shape or dtype.
        """
        self._check_operation(operation)
        width = self.manifest.features if operation == "embed" else self.manifest.classes or 0
        self._check(images)
        endpoint = _ENDPOINTS[operation]
        return self._batches.run(
            lambda chunk: self._runtime.run(endpoint, chunk), images, width=width
        )

    def finish(self, operation: VectorOperation, base_output: BaseOutput) -> Outputs:
        """The output for each image whose `base.run` has been computed; `run` is both in one.

        Args:
            operation: `classify` or `embed`.
            base_output: Rows of the output of `base`, which is not None; at least one.

        Raises:
            VersionNotFound: The version does not support the operation.
        """
        self._check_operation(operation)
        return self._runtime.finish(_ENDPOINTS[operation], base_output)

    def explain(self, images: Pixels, classes: Indices, *, hires: bool = False) -> Explanations:
        """Why each image would be of its class, by one forward and one backward pass.

        Args:
            images: As for `run`, at least one.
            classes: The class to explain of each, shape (n,), int32; a negative one stands for
                the most probable.
            hires: HiResCAM instead of Grad-CAM.
        """
        endpoint = _explain_endpoint(hires)
        if endpoint not in self.manifest.endpoints:
            raise VersionNotFound(
                f"'{self.manifest.model}' version {self.version} has no classifier, so there is "
                "nothing to explain. Use another version or model."
            )
        self._check(images)
        self.load_explain(hires=hires)
        outputs = self._explain_endpoints.explain(endpoint, images, classes)
        grids, targets, probabilities = (
            outputs[name] for name in (OUTPUTS[endpoint], TARGET, PROBABILITY)
        )
        return Explanations(grids, targets.astype(np.int32, copy=False), probabilities)

    def can_explain(self, *, hires: bool = False) -> bool:
        """Whether `explain` answers at once; otherwise it loads a graph first."""
        return self._explain_endpoints.is_loaded(_explain_endpoint(hires))

    def load_explain(self, *, hires: bool = False) -> None:
        """Load and warm up what only `explain` needs. Thread-safe."""
        self._explain_endpoints.load(_explain_endpoint(hires), self.batch_sizes)

    @property
    def explain_runtime(self) -> str | None:
        """The runtime of explanations, e.g. ``openvino-bfloat16``; None before the first one."""
        return self._explain_endpoints.runtimes.get("explain")

    def _check_operation(self, operation: VectorOperation) -> None:
        if operation not in self.operations:
            raise VersionNotFound(
                f"'{self.manifest.model}' version {self.version} cannot {operation}: it has "
                f"{', '.join(self.operations)} only. Use another version or model."
            )

    def _check(self, images: Pixels) -> None:
        if images.dtype != np.uint8 or images.shape[1:] != (*self.manifest.input_size, 3):
            raise ValueError(
                f"{self.manifest.model} takes uint8 images of {self.manifest.input_size}, "
                f"not {images.dtype} of shape {images.shape}"
            )


class _Costs(NamedTuple):
    """Seconds for each image by batch size."""

    passed: dict[int, float]
    used: dict[int, float]

    def alone(self, threads: int) -> dict[int, float]:
        """About what would pass if nothing else ran on the machine."""
        return {
            size: max(min(passed, self.used[size] / threads), passed / _MOST_BUSY)
            for size, passed in self.passed.items()
        }


def _knee(costs: dict[int, float]) -> int:
    """The smallest size that costs little more than the cheapest one."""
    lowest = min(costs.values())
    return next(size for size, cost in costs.items() if cost * _KNEE <= lowest)


def _most_in_time(costs: dict[int, float], sizes: Sequence[int]) -> int:
    """The largest size that takes no more than `_MAX_BATCH_SECONDS`, or the smallest one.

    Args:
        costs: What was measured.
        sizes: All, ascending.
    """
    largest_tried = max(costs)
    in_time = [
        size for size in sizes if size * costs.get(size, costs[largest_tried]) <= _MAX_BATCH_SECONDS
    ]
    return max(in_time, default=sizes[0])


def _explain_endpoint(hires: bool) -> Endpoint:
    return "explain_hires" if hires else "explain"


def load_version(
    store: Store,
    model: str,
    version: int | str | None = None,
    *,
    max_batch_size: int,
    options: RuntimeOptions = RuntimeOptions(),  # noqa: B008  frozen
) -> VersionPredictor:
    """Load a version from the store; it still has to be warmed up.

    Raises:
        ModelNotFound: There is no such model.
        VersionNotFound: It has no such version or alias.
    """
    number = store.resolve(model, version)
    return VersionPredictor(
        store.path(model, number), max_batch_size=max_batch_size, options=options
    )
