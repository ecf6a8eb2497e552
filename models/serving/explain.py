"""What explains a version: OpenVINO with the endpoint's own tape, or TensorFlow.

asked                 tried in turn
auto, on a GPU        tensorflow-float32
auto, on a CPU        openvino-bfloat16, -float32, tensorflow-float32
openvino              the same
tensorflow            tensorflow-float32

So a heatmap is computed as its class was, in the same precision; of a version in int8 in bfloat16.
Nothing is loaded before it is asked for: only who explains needs a second graph.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.inference.manifest import Endpoint, Manifest
from contracts.queue.messages import Pixels
from models.serving.batching import Batches
from models.serving.openvino.runtime import OpenVinoExplainer
from models.serving.parity_gate import complaint_of_maps
from models.serving.reference import reference_of
from models.serving.runtime import Precision, Runtime, RuntimeOptions, RuntimeUnavailableError
from models.serving.selection import precisions, tensorflow_runtime

Explain = Callable[[Pixels, npt.NDArray[np.int32]], dict[str, npt.NDArray[Any]]]
"""From pictures and classes to all that the endpoint tells, by name."""

_LOG = logging.getLogger(__name__)
# Larger batches are run beforehand as long as it has not taken longer.
_WARM_SECONDS = 1.5


class Explaining:
    """The explaining endpoints of a version, each loaded when it is first wanted.

    Args:
        folder: The version's.
        manifest: Its own.
        served: What classifies; explains as well if it can.
        options: What was asked for.

    Attributes:
        runtimes: What runs each endpoint that is loaded, e.g. ``openvino-bfloat16``.
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

    def has(self, endpoint: Endpoint) -> bool:
        """Whether it answers in a moment."""
        return endpoint in self._loaded

    def load(self, endpoint: Endpoint, sizes: Sequence[int]) -> None:
        """Read what the endpoint needs, judge it and run it; takes seconds. Safe among threads.

        Args:
            endpoint: `explain` or `explain_hires`.
            sizes: Of the batches that will come, ascending.
        """
        with self._loading:
            if endpoint in self._loaded:
                return
            explain, name, pads = self._chosen(endpoint, sizes)
            until = time.monotonic() + _WARM_SECONDS
            for size in sizes:
                black = np.zeros((size, *self._manifest.input_size, 3), np.uint8)
                explain(black, np.zeros(size, np.int32))
                if time.monotonic() > until:
                    break
            self.runtimes[endpoint] = name
            self._batches[endpoint] = Batches(tuple(sizes), pads)
            self._loaded[endpoint] = explain

    def explain(
        self, endpoint: Endpoint, images: Pixels, classes: npt.NDArray[np.int32]
    ) -> dict[str, npt.NDArray[Any]]:
        """All that a loaded endpoint tells, by name. Belongs to one thread at a time."""
        told = [
            {name: rows[:count] for name, rows in self._loaded[endpoint](*batch).items()}
            for batch, count in self._batches[endpoint].padded(images, classes)
        ]
        return {name: np.concatenate([one[name] for one in told]) for name in told[0]}

    def _chosen(self, endpoint: Endpoint, sizes: Sequence[int]) -> tuple[Explain, str, bool]:
        """What explains, its name, and whether its batches are padded."""
        if self._options.engine == "openvino":
            for precision in precisions(self._options):
                try:
                    quick = self._judged(endpoint, precision)
                except RuntimeUnavailableError as unavailable:
                    # For whoever runs the service; a client is not served worse, only later.
                    _LOG.info("explain_runtime openvino-%s: %s", precision, unavailable)
                else:
                    quick.tune(sizes)
                    return quick.explain, quick.name, False
        self._tensorflow = self._tensorflow or tensorflow_runtime(self._folder, self._options)
        runtime = self._tensorflow
        return partial(runtime.explain, endpoint), runtime.name, runtime.pads

    def _judged(self, endpoint: Endpoint, precision: Precision) -> OpenVinoExplainer:
        quick = OpenVinoExplainer(self._folder, endpoint, precision, self._options)
        samples = self._options.home and self._options.home / "samples"
        reference = reference_of(self._folder, samples, endpoint)
        if reference is None:
            raise RuntimeUnavailableError("TensorFlow could not be asked for its maps to compare")
        strays = complaint_of_maps(quick.explain, endpoint, reference, precision)
        if strays is not None:
            raise RuntimeUnavailableError(strays)
        return quick
