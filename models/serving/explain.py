"""The runtime of a version's explaining endpoints: OpenVINO, or TensorFlow.

setting               tried in turn
auto, on a GPU        tensorflow-float32
auto, on a CPU        openvino-bfloat16, -float32, tensorflow-float32
openvino              the same
tensorflow            tensorflow-float32

So a heatmap is computed in the precision of its class; for an int8 version, in bfloat16. An
endpoint is loaded when it is first used, because it needs a second graph.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from contracts.garbage import release_freed
from contracts.inference.manifest import Endpoint, Manifest
from contracts.queue.messages import Pixels
from models.serving.batching import Batches
from models.serving.openvino.runtime import OpenVinoExplainer
from models.serving.parity_gate import find_heatmap_deviation
from models.serving.reference import reference_of
from models.serving.runtime import Precision, Runtime, RuntimeOptions, RuntimeUnavailableError
from models.serving.selection import precisions, rejected_precisions, tensorflow_runtime

Explain = Callable[[Pixels, npt.NDArray[np.int32]], dict[str, npt.NDArray[Any]]]
"""From images and classes to all outputs of the endpoint, by name."""

_LOG = logging.getLogger(__name__)
# Larger batches are tried while warming up until it has taken this long.
_WARM_SECONDS = 1.5


class ExplainEndpoints:
    """The explaining endpoints of a version, each loaded when it is first used.

    Args:
        folder: The version's.
        manifest: The version's.
        served: The runtime that classifies; it also explains if it can.
        options: The requested runtime.

    Attributes:
        runtimes: The runtime of each loaded endpoint, e.g. ``openvino-bfloat16``.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, served: Runtime, options: RuntimeOptions
    ) -> None:
        self.runtimes: dict[Endpoint, str] = {}
        self._folder = folder
        self._manifest = manifest
        self._options = options
        self._tensorflow: Any = served if hasattr(served, "explain") else None
        self._loaded: dict[Endpoint, Explain] = {}
        self._batches: dict[Endpoint, Batches] = {}
        self._loading = Lock()

    def is_loaded(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint answers without loading a graph."""
        return endpoint in self._loaded

    def load(self, endpoint: Endpoint, sizes: Sequence[int]) -> None:
        """Load the endpoint, check it and warm it up. Takes seconds; thread-safe.

        Args:
            endpoint: `explain` or `explain_hires`.
            sizes: Batch sizes to expect, ascending.
        """
        with self._loading:
            if endpoint in self._loaded:
                return
            chosen = self._choose(endpoint)
            if chosen.is_new:
                self._warm(chosen.explain, sizes)
            self.runtimes[endpoint] = chosen.name
            self._batches[endpoint] = Batches(tuple(sizes), chosen.pads)
            self._loaded[endpoint] = chosen.explain
            release_freed()

    def _warm(self, explain: Explain, sizes: Sequence[int]) -> None:
        deadline = time.monotonic() + _WARM_SECONDS
        for size in sizes:
            black = np.zeros((size, *self._manifest.input_size, 3), np.uint8)
            explain(black, np.zeros(size, np.int32))
            if time.monotonic() > deadline:
                break

    def explain(
        self, endpoint: Endpoint, images: Pixels, classes: npt.NDArray[np.int32]
    ) -> dict[str, npt.NDArray[Any]]:
        """All outputs of a loaded endpoint, by name. Call from one thread at a time."""
        batches = [
            {name: rows[:count] for name, rows in self._loaded[endpoint](*batch).items()}
            for batch, count in self._batches[endpoint].padded(images, classes)
        ]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

    def _choose(self, endpoint: Endpoint) -> "_Chosen":
        if self._options.engine == "openvino":
            rejected = rejected_precisions(self._manifest)
            for precision in precisions(self._options):
                if precision in rejected:
                    continue
                try:
                    explainer = self._checked(endpoint, precision)
                except RuntimeUnavailableError as unavailable:
                    # The operator may want to know; clients get the same heatmaps, only later.
                    _LOG.info("explain_runtime openvino-%s: %s", precision, unavailable)
                else:
                    is_new = explainer.parallelize()
                    return _Chosen(explainer.explain, explainer.name, False, is_new)
        self._tensorflow = self._tensorflow or tensorflow_runtime(self._folder, self._options)
        runtime = self._tensorflow
        return _Chosen(partial(runtime.explain, endpoint), runtime.name, runtime.pads)

    def _checked(self, endpoint: Endpoint, precision: Precision) -> OpenVinoExplainer:
        explainer = OpenVinoExplainer(self._folder, endpoint, precision, self._options)
        samples = self._options.home and self._options.home / "samples"
        reference = reference_of(self._folder, samples, endpoint)
        if reference is None:
            raise RuntimeUnavailableError("there are no heatmaps of TensorFlow to compare with")
        deviation = find_heatmap_deviation(explainer.explain, endpoint, reference, precision)
        if deviation is not None:
            raise RuntimeUnavailableError(deviation)
        return explainer


class _Chosen(NamedTuple):
    """What explains.

    Attributes:
        explain: Its function.
        name: Its runtime's.
        pads: Whether its batches are padded.
        is_new: Whether nothing of it has run yet, not even for another version.
    """

    explain: Explain
    name: str
    pads: bool
    is_new: bool = True
