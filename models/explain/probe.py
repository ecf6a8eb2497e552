"""One Keras network, compiled for questions: maps, grids, scores and gradients, in batches.

Each question is traced once, for any number of pictures, with the class as a tensor, and every
batch is padded to one of a few sizes. So a hundred requests for a hundred classes trace nothing.
Pictures are float32 in levels of 0 to 255; the preprocessing is inside, so that a gradient is per
level and a mask is of the picture itself.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contracts.explanation import Method
from models.batches import batch_sizes, padded
from models.catalog import Preprocessing
from models.explain.cams import WEIGHINGS, cam
from models.explain.flat import Flat, Tensor
from models.explain.head import Head, head_of
from models.networks.preprocessing import prepare

Array = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int32]

_MOST_GRAPHS = 32
"""Graphs kept; beyond them the one asked longest ago is let go. A graph is about a megabyte."""


class Probe:
    """A network that can be asked what goes on inside it.

    Args:
        model: The network; only looked at.
        preprocessing: What is done to its pictures first.
        max_batch_size: Most pictures that run together.

    Attributes:
        flat: Its layers.
        traces: How many graphs have been traced so far.
    """

    def __init__(
        self, model: keras.Model, preprocessing: Preprocessing, *, max_batch_size: int
    ) -> None:
        self.flat = Flat.of(model)
        self.traces = 0
        self._preprocessing = preprocessing
        self._sizes = batch_sizes(max_batch_size)
        self._head: Head | None = None
        self._graphs: OrderedDict[tuple[str, ...], Callable[..., Tensor]] = OrderedDict()

    @property
    def head(self) -> Head:
        """The network's end.

        Raises:
            ValueError: See `head_of`.
        """
        self._head = self._head or head_of(self.flat)
        return self._head

    def maps(self, images: Array, layer: str) -> Array:
        """The output of a layer: (n, h, w, 3) to (n, gh, gw, channels)."""

        def make() -> Callable[..., Tensor]:
            part = self.flat.to(self.flat.steps[layer].output)
            return lambda images: tf.cast(part(self._prepared(images), training=False), tf.float32)

        return self._all(self._graph(("maps", layer), make, self._images), images)

    def grids(self, method: Method, images: Array, classes: Classes, layer: str) -> Array:
        """A fast method: (n, h, w, 3) and (n,) to (n, gh, gw) in 0..1."""

        def make() -> Callable[..., Tensor]:
            grids = cam(self.flat, self.head, layer, WEIGHINGS[method])
            return lambda images, classes: grids(self._prepared(images), classes)

        graph = self._graph(("grids", method, layer), make, self._images, self._classes)
        return self._all(graph, images, classes)

    def probabilities(self, images: Array) -> Array:
        """(n, h, w, 3) to (n, classes)."""

        def make() -> Callable[..., Tensor]:
            whole, head = self.flat.to(self.flat.output), self.head
            return lambda images: head.probabilities(whole(self._prepared(images), training=False))

        return self._all(self._graph(("probabilities",), make, self._images), images)

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

        return self._all(
            self._graph(("gradients",), make, self._images, self._classes), images, classes
        )

    def masked_scores(self, image: Array, masks: Array, index: int) -> Iterator[Array]:
        """The logit of one class when parts of a picture are hidden, batch by batch.

        Args:
            image: (h, w, 3).
            masks: (n, gh, gw) in 0..1, made smooth and as large as the picture. Where one is 0
                the picture gives way to its own mean colour, which is less of a shape than black.
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
        graph = self._graph(("masked_scores",), make, *specs)
        picture, class_index = tf.constant(image), tf.constant(index, tf.int32)
        for (batch,), count in padded(self._sizes, masks):
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
        self, key: tuple[str, ...], make: Callable[[], Callable[..., Tensor]], *specs: Any
    ) -> Callable[..., Tensor]:
        """The compiled function of a question, traced when it is first asked."""
        if key not in self._graphs:
            function = make()

            def counted(*arguments: Tensor) -> Tensor:
                self.traces += 1  # runs when Python does: once a trace
                return function(*arguments)

            self._graphs[key] = tf.function(counted).get_concrete_function(*specs)
            if len(self._graphs) > _MOST_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _all(self, graph: Callable[..., Tensor], *arrays: Any) -> Array:
        batches = padded(self._sizes, *arrays)
        parts = [graph(*map(tf.constant, batch)).numpy()[:count] for batch, count in batches]
        return np.concatenate(parts)
