"""A Keras network compiled to expose its maps, gradients and scores, in batches.

Each kind of function is traced once, for any number of images, with the class as a tensor, and
every batch is padded to one of a few sizes: a hundred requests for a hundred classes trace nothing
new. A batch is a step of bounded work, after which the progress callback runs and may let other
work go first. Steps are bounded by work and not by a clock, so that the same request is always cut
in the same way and its result is the same to the last bit.

Images are float32 with levels of 0 to 255. The preprocessing is inside, so a gradient is per level
and a mask applies to the image itself.
"""

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contracts.inference.explanation import Method
from models.catalog import Preprocessing
from models.explain.cam import WEIGHINGS, evidence_function, scaled
from models.explain.head import Head, head_of
from models.explain.layer_graph import LayerGraph, LayerNode, Tensor
from models.networks.preprocessing import prepare
from models.serving.batching import Batches
from models.serving.openvino.function import RowFunction
from models.serving.runtime import RuntimeOptions, RuntimeUnavailableError

Array = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int32]

ReportProgress = Callable[[float], None]
"""Called with the fraction done after each step; may raise to stop the computation."""

FunctionKind = Literal["maps", "evidence", "gradients", "masked_scores"]
"""What a compiled function returns; those of the first two kinds belong to one layer."""

STEP_WORK = 2.5e9
"""Multiplications of one step's forward pass: 0.1 to 0.2 s on a core, backward pass included."""

_LOG = logging.getLogger(__name__)
_MAX_FUNCTIONS = 96  # about a megabyte each; the least recently used one is dropped


def _no_progress(fraction: float) -> None:
    del fraction


class InstrumentedModel:
    """A network with compiled functions into its inside.

    Args:
        model: The network; not changed.
        preprocessing: Applied to its images.
        max_batch_size: The most images that run together.
        options: The requested runtime. OpenVINO computes what needs no gradient.

    Attributes:
        graph: Its layers.
        batch: Images in a step.
        traces: How many functions have been traced so far.
    """

    def __init__(
        self,
        model: keras.Model,
        preprocessing: Preprocessing,
        *,
        max_batch_size: int,
        options: RuntimeOptions = RuntimeOptions(),  # noqa: B008  frozen
    ) -> None:
        self.graph = LayerGraph.of(model)
        self._options = options
        self._scores: Callable[..., Array] | None = None
        self.traces = 0
        self._preprocessing = preprocessing
        self.batch = step_size(self.graph, max_batch_size)
        self._batches = Batches.up_to(self.batch)
        self._head: Head | None = None
        self._functions: OrderedDict[tuple[str, str], Callable[..., Tensor]] = OrderedDict()
        self._lock = Lock()

    @property
    def head(self) -> Head:
        """The network's end.

        Raises:
            ValueError: See `head_of`.
        """
        self._head = self._head or head_of(self.graph)
        return self._head

    def is_traced(self, kind: FunctionKind, layer: str = "") -> bool:
        """Whether the function exists already, so that it runs without a delay."""
        return (kind, layer) in self._functions

    def warm_up(self, kind: FunctionKind, layer: str) -> None:
        """Trace the function and run it once on a black image; takes seconds."""
        black = np.zeros((1, *self._images.shape[1:]), np.float32)
        first = np.zeros(1, np.int32)
        match kind:
            case "maps":
                self.maps(black, layer)
            case "evidence":
                self.grids("layer_cam", black, first, layer)
            case "gradients":
                self.gradients(black, first)
            case "masked_scores":
                list(self.masked_scores(black[0], np.ones((1, 2, 2), np.float32), 0))

    def maps(self, images: Array, layer: str, progress: ReportProgress = _no_progress) -> Array:
        """The output of a layer: (n, h, w, 3) to (n, gh, gw, channels)."""

        def make() -> Callable[..., Tensor]:
            part = self.graph.model_to(self.graph.nodes[layer].output)
            return lambda images: tf.cast(part(self._prepared(images), training=False), tf.float32)

        return self._run(self._function("maps", layer, make, self._images), progress, images)

    def grids(
        self,
        method: Method,
        images: Array,
        classes: Classes,
        layer: str,
        progress: ReportProgress = _no_progress,
    ) -> Array:
        """A fast method: (n, h, w, 3) and (n,) to (n, gh, gw) in 0..1.

        All methods share the function of the layer: weighing its result takes almost no time.
        """

        def make() -> Callable[..., Tensor]:
            gather = evidence_function(self.graph, self.head, layer)
            return lambda images, classes: gather(self._prepared(images), classes)[:2]

        function = self._function("evidence", layer, make, self._images, self._classes)
        weigh = WEIGHINGS[method]
        return self._run(lambda *batch: scaled(weigh(*function(*batch))), progress, images, classes)

    def gradients(self, images: Array, classes: Classes) -> Array:
        """The gradient of each image's logit with respect to its levels: (n, h, w, 3)."""

        def make() -> Callable[..., Tensor]:
            part, head = self.graph.model_to(self.head.before), self.head

            def gradients(images: Tensor, classes: Tensor) -> Tensor:
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(images)
                    scores = head.scores(part(self._prepared(images), training=False), classes)
                return tape.gradient(scores, images)

            return gradients

        function = self._function("gradients", "", make, self._images, self._classes)
        return self._run(function, _no_progress, images, classes)

    def masked_scores(self, image: Array, masks: Array, index: int) -> Iterator[Array]:
        """The logit of one class when parts of an image are hidden, batch by batch.

        Args:
            image: (h, w, 3).
            masks: (n, gh, gw) in 0..1, interpolated to the image's size. Where a mask is 0 the
                image is replaced by its own mean color, which is less of a shape than black.
            index: The class.

        Yields:
            float32 (batch,), n in all.
        """

        def make() -> Callable[..., Tensor]:
            part, head = self.graph.model_to(self.head.before), self.head

            def scores(image: Tensor, masks: Tensor, index: Tensor) -> Tensor:
                shown = tf.image.resize(masks[..., tf.newaxis], tf.shape(image)[:2])
                mean = tf.reduce_mean(image, axis=(0, 1))
                before = part(self._prepared(mean + shown * (image - mean)), training=False)
                return head.scores(before, tf.repeat(index, tf.shape(masks)[0]))

            return scores

        specs = (
            tf.TensorSpec(self._images.shape[1:], tf.float32),
            tf.TensorSpec((None, None, None), tf.float32),
            tf.TensorSpec((), tf.int32),
        )
        function = self._function("masked_scores", "", make, *specs)
        if self._scores is None:
            self._scores = self._fastest_scores(function)
        class_index = np.array(index, np.int32)
        for (batch,), count in self._batches.padded(masks):
            yield self._scores(image, batch, class_index)[:count]

    def _fastest_scores(self, function: Callable[..., Tensor]) -> Callable[..., Array]:
        """The function of `masked_scores` by OpenVINO if that can, and agrees; else as it is."""

        def by_tensorflow(*arrays: Any) -> Array:
            scores: Array = function(*map(tf.constant, arrays)).numpy()
            return scores

        if self._options.engine != "openvino":
            return by_tensorflow
        random = np.random.default_rng(0)
        arrays = (
            random.uniform(0, 255, self._images.shape[1:]).astype(np.float32),
            random.random((self.batch, 7, 7), np.float32),
            np.array(0, np.int32),
        )
        try:
            by_openvino = RowFunction(function, 1, threads=self._options.threads, batch=self.batch)
            if by_openvino.agrees(by_tensorflow(*arrays), *arrays):
                return by_openvino
        except RuntimeUnavailableError as unavailable:
            _LOG.info("masked images are scored by TensorFlow: %s", unavailable)
        return by_tensorflow

    @property
    def _images(self) -> Any:
        return tf.TensorSpec((None, *self.graph.image.shape[1:3], 3), tf.float32)

    @property
    def _classes(self) -> Any:
        return tf.TensorSpec((None,), tf.int32)

    def _prepared(self, images: Tensor) -> Tensor:
        return prepare(self._preprocessing, images, self.graph.image.shape[-1])

    def _function(
        self,
        kind: FunctionKind,
        layer: str,
        make: Callable[[], Callable[..., Tensor]],
        *specs: Any,
    ) -> Callable[..., Tensor]:
        """The compiled function, traced when it is first needed.

        Two threads may come here at once, one that warms up and one that answers.
        """
        key = (kind, layer)
        compiled = self._functions.get(key)
        if compiled is None:
            function = make()

            def counted(*arguments: Tensor) -> Tensor:
                self.traces += 1  # runs while tracing only
                return function(*arguments)

            compiled = tf.function(counted).get_concrete_function(*specs)
        with self._lock:
            self._functions[key] = compiled
            self._functions.move_to_end(key)
            while len(self._functions) > _MAX_FUNCTIONS:
                self._functions.popitem(last=False)
        return compiled

    def _run(
        self, function: Callable[..., Tensor], progress: ReportProgress, *arrays: Any
    ) -> Array:
        rows, done = [], 0
        for batch, count in self._batches.padded(*arrays):
            rows.append(function(*map(tf.constant, batch)).numpy()[:count])
            done += count
            progress(done / len(arrays[0]))
        return np.concatenate(rows)


def step_size(graph: LayerGraph, maximum: int) -> int:
    """Images in a step: a power of two up to `maximum`; on a GPU, which is fast, `maximum`."""
    if tf.config.list_logical_devices("GPU"):
        return maximum
    fitting = min(maximum, STEP_WORK / max(1.0, work_of(graph)))
    return 1 << int(math.log2(max(1.0, fitting)))


def work_of(graph: LayerGraph) -> float:
    """Approximate multiplications of one image's forward pass, in layers with kernels."""
    return float(sum(map(_layer_work, graph.nodes.values())))


def _layer_work(node: LayerNode) -> int:
    """Each value of a kernel is used once at every position of the output."""
    kernels = sum(math.prod(weight.shape) for weight in node.layer.weights if len(weight.shape) > 1)
    return kernels * math.prod(side or 1 for side in node.output.shape[1:-1]) if kernels else 0
