"""One Keras network, compiled for questions: maps, grids, scores and gradients, in batches.

Each question is traced once, for any number of pictures, with the class as a tensor, and every
batch is padded to one of a few sizes. So a hundred requests for a hundred classes trace nothing.
A batch is a step of bounded work, after which the caller is told and may let others go first.
Pictures are float32 in levels of 0 to 255; the preprocessing is inside, so that a gradient is per
level and a mask is of the picture itself.

How many pictures make one step of a long computation, so that nobody waits long for its end.

A worker gives way between two steps. By work and not by a clock, so that the same question is cut
the same way every time and its answer is the same to the last bit.
"""

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
from models.explain.cam import WEIGHINGS, evidence, scaled
from models.explain.head import Head, head_of
from models.explain.layer_graph import Flat, Step, Tensor
from models.networks.preprocessing import prepare
from models.serving.batching import Batches

Array = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int32]

Told = Callable[[float], None]
"""Hears the fraction done after each step; may raise to end it."""

Question = Literal["maps", "evidence", "probabilities", "gradients", "masked_scores"]
"""What one graph answers; the first two of one layer."""

_MOST_GRAPHS = 96
"""Graphs kept; beyond them the one asked longest ago is let go. A graph is about a megabyte."""


def _silent(fraction: float) -> None:
    del fraction


class Probe:
    """A network that can be asked what goes on inside it.

    Args:
        model: The network; only looked at.
        preprocessing: What is done to its pictures first.
        max_batch_size: Most pictures that run together.

    Attributes:
        flat: Its layers.
        batch: Pictures a step.
        traces: How many graphs have been traced so far.
    """

    def __init__(
        self, model: keras.Model, preprocessing: Preprocessing, *, max_batch_size: int
    ) -> None:
        self.flat = Flat.of(model)
        self.traces = 0
        self._preprocessing = preprocessing
        self.batch = step_size(self.flat, max_batch_size)
        self._batches = Batches.up_to(self.batch)
        self._head: Head | None = None
        self._graphs: OrderedDict[tuple[str, str], Callable[..., Tensor]] = OrderedDict()
        self._keeping = Lock()

    @property
    def head(self) -> Head:
        """The network's end.

        Raises:
            ValueError: See `head_of`.
        """
        self._head = self._head or head_of(self.flat)
        return self._head

    def knows(self, question: Question, layer: str = "") -> bool:
        """Whether the question was asked before, so that it is answered without a delay."""
        return _key(question, layer) in self._graphs

    def rehearse(self, question: Question, layer: str) -> None:
        """Trace the question and answer it once, of a black picture; takes seconds."""
        black = np.zeros((1, *self._images.shape[1:]), np.float32)
        first = np.zeros(1, np.int32)
        match question:
            case "maps":
                self.maps(black, layer)
            case "evidence":
                self.grids("layer_cam", black, first, layer)
            case "probabilities":
                self.probabilities(black)
            case "gradients":
                self.gradients(black, first)
            case "masked_scores":
                list(self.masked_scores(black[0], np.ones((1, 2, 2), np.float32), 0))

    def maps(self, images: Array, layer: str, told: Told = _silent) -> Array:
        """The output of a layer: (n, h, w, 3) to (n, gh, gw, channels)."""

        def make() -> Callable[..., Tensor]:
            part = self.flat.to(self.flat.steps[layer].output)
            return lambda images: tf.cast(part(self._prepared(images), training=False), tf.float32)

        return self._all(self._graph(_key("maps", layer), make, self._images), told, images)

    def grids(
        self, method: Method, images: Array, classes: Classes, layer: str, told: Told = _silent
    ) -> Array:
        """A fast method: (n, h, w, 3) and (n,) to (n, gh, gw) in 0..1.

        The graph is the layer's, and all methods share it: the weighing takes no time beside it.
        """

        def make() -> Callable[..., Tensor]:
            gather = evidence(self.flat, self.head, layer)
            return lambda images, classes: gather(self._prepared(images), classes)[:2]

        graph = self._graph(_key("evidence", layer), make, self._images, self._classes)
        weigh = WEIGHINGS[method]
        return self._all(lambda *batch: scaled(weigh(*graph(*batch))), told, images, classes)

    def probabilities(self, images: Array, told: Told = _silent) -> Array:
        """(n, h, w, 3) to (n, classes)."""

        def make() -> Callable[..., Tensor]:
            whole, head = self.flat.to(self.flat.output), self.head
            return lambda images: head.probabilities(whole(self._prepared(images), training=False))

        return self._all(self._graph(_key("probabilities"), make, self._images), told, images)

    def gradients(self, images: Array, classes: Classes) -> Array:
        """Of each picture's logit with respect to its levels: (n, h, w, 3)."""

        def make() -> Callable[..., Tensor]:
            part, head = self.flat.to(self.head.before), self.head

            def gradients(images: Tensor, classes: Tensor) -> Tensor:
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(images)
                    scores = head.scores(part(self._prepared(images), training=False), classes)
                return tape.gradient(scores, images)

            return gradients

        graph = self._graph(_key("gradients"), make, self._images, self._classes)
        return self._all(graph, _silent, images, classes)

    def masked_scores(self, image: Array, masks: Array, index: int) -> Iterator[Array]:
        """The logit of one class when parts of a picture are hidden, batch by batch.

        Args:
            image: (h, w, 3).
            masks: (n, gh, gw) in 0..1, made smooth and as large as the picture. Where one is 0
                the picture gives way to its own mean color, which is less of a shape than black.
            index: The class.

        Yields:
            float32 (batch,), n in all.
        """

        def make() -> Callable[..., Tensor]:
            part, head = self.flat.to(self.head.before), self.head

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
        graph = self._graph(_key("masked_scores"), make, *specs)
        picture, class_index = tf.constant(image), tf.constant(index, tf.int32)
        for (batch,), count in self._batches.padded(masks):
            yield graph(picture, tf.constant(batch), class_index).numpy()[:count]

    @property
    def _images(self) -> Any:
        return tf.TensorSpec((None, *self.flat.image.shape[1:3], 3), tf.float32)

    @property
    def _classes(self) -> Any:
        return tf.TensorSpec((None,), tf.int32)

    def _prepared(self, images: Tensor) -> Tensor:
        return prepare(self._preprocessing, images, self.flat.image.shape[-1])

    def _graph(
        self, key: tuple[str, str], make: Callable[[], Callable[..., Tensor]], *specs: Any
    ) -> Callable[..., Tensor]:
        """The compiled function of a question, traced when it is first asked.

        Two threads may come here, one that rehearses and one that asks: each step is whole.
        """
        graph = self._graphs.get(key)
        if graph is None:
            function = make()

            def counted(*arguments: Tensor) -> Tensor:
                self.traces += 1  # runs when Python does: once a trace
                return function(*arguments)

            graph = tf.function(counted).get_concrete_function(*specs)
        with self._keeping:
            self._graphs[key] = graph
            self._graphs.move_to_end(key)
            while len(self._graphs) > _MOST_GRAPHS:
                self._graphs.popitem(last=False)
        return graph

    def _all(self, graph: Callable[..., Tensor], told: Told, *arrays: Any) -> Array:
        rows, done = [], 0
        for batch, count in self._batches.padded(*arrays):
            rows.append(graph(*map(tf.constant, batch)).numpy()[:count])
            done += count
            told(done / len(arrays[0]))
        return np.concatenate(rows)


def _key(question: Question, layer: str = "") -> tuple[str, str]:
    return question, layer


STEP_WORK = 2.5e9
"""Multiplications of one pass forward in a step: 0.1 to 0.2 s on a core, with the way back."""


def step_size(flat: Flat, most: int) -> int:
    """Pictures a step, a power of two up to `most`; on a GPU, which is never long busy, `most`."""
    if tf.config.list_logical_devices("GPU"):
        return most
    fitting = min(most, STEP_WORK / max(1.0, work_of(flat)))
    return 1 << int(math.log2(max(1.0, fitting)))


def work_of(flat: Flat) -> float:
    """Multiplications of one picture's pass forward, in layers with kernels, about."""
    return float(sum(map(_work, flat.steps.values())))


def _work(step: Step) -> int:
    """Each value of a kernel is used once at every place of the output."""
    kernels = sum(math.prod(one.shape) for one in step.layer.weights if len(one.shape) > 1)
    return kernels * math.prod(side or 1 for side in step.output.shape[1:-1]) if kernels else 0
