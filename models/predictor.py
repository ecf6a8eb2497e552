"""One network, loaded and compiled: uint8 pictures in, probabilities or features out.

Each operation is traced once, for any number of pictures, and every batch is padded to one of a
few sizes that have been run before: so no request waits for a trace, nor for the kernels that
oneDNN and cuDNN choose anew for each shape. (A trace for each size ran no faster and took four
times as long to warm: 21 s in place of 5 for EfficientNet-Lite0 on 2 cores.)
"""

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from contracts.inference.inference import Operation
from contracts.queue.messages import Pixels
from models.catalog import Network
from models.networks.architecture import ARCHITECTURES, build
from models.networks.loading import load_weights
from models.networks.preprocessing import preprocess
from models.serving.batching import Batches, Outputs
from models.serving.devices import prepare_tensorflow
from models.weights.catalog import Weights, WeightsMissing


class Predictor:
    """A network that answers.

    Args:
        network: Its catalog row.
        model: The network with its weights, or its base alone.
        partial_reason: Why it is only the base; None if it is whole.
        max_batch_size: Most pictures that run together.

    Attributes:
        network: Its catalog row.
        version: Published weights are version 1.
        operations: What it can be asked for.
        classes: Size of the probabilities; None without a classifier.
        runtime: What runs it.
        batch_sizes: The sizes a batch is padded to, ascending.
        partial_reason: Why `classify` is not offered; None if it is.
        traces: How many graphs have been traced so far.
    """

    version = 1
    runtime = "tensorflow-float32"

    def __init__(
        self,
        network: Network,
        model: keras.Model,
        *,
        partial_reason: str | None,
        max_batch_size: int,
    ) -> None:
        self.network = network
        self.partial_reason = partial_reason
        self.operations: tuple[Operation, ...] = ("embed",)
        self.classes: int | None = None
        self._batches = Batches.up_to(max_batch_size)
        self.batch_sizes = self._batches.sizes
        self.traces = 0
        base = model.get_layer(ARCHITECTURES[network.name].base_output).output
        pooled = keras.layers.GlobalAveragePooling2D()(base)
        self._forwards: dict[Operation, keras.Model] = {"embed": keras.Model(model.inputs, pooled)}
        if partial_reason is None:
            self.operations = ("classify", "embed")
            self.classes = int(model.outputs[0].shape[-1])
            self._forwards["classify"] = model
        self._compiled: dict[Operation, Callable[[Any], Any]] = {}

    def warm(self, seconds: float = 1.5) -> None:
        """Trace every operation and run it at growing batch sizes, so that no request pays for it.

        Args:
            seconds: A larger batch is tried as long as the operation has not taken longer. What
                a slow network would still gain is little beside what it costs anyhow.
        """
        height, width = self.network.input_size
        for operation in self.operations:
            until = time.monotonic() + seconds
            for size in self.batch_sizes:
                self.run(operation, np.zeros((size, height, width, 3), np.uint8))
                if time.monotonic() > until:
                    break

    def run(self, operation: Operation, images: Pixels) -> Outputs:
        """Answer for each picture.

        Args:
            operation: One of `operations`.
            images: RGB of the network's input size, shape (n, height, width, 3), uint8; any n.

        Returns:
            float32: probabilities (n, classes), or features (n, features).

        Raises:
            WeightsMissing: `classify` of a network that has no classifier here.
            ValueError: `images` has another shape or dtype.
        """
        if operation not in self._forwards:
            raise WeightsMissing(self.partial_reason or f"{operation} is not offered here.")
        if images.dtype != np.uint8 or images.shape[1:] != (*self.network.input_size, 3):
            raise ValueError(
                f"{self.network.name} takes uint8 pictures of {self.network.input_size}, "
                f"not {images.dtype} of shape {images.shape}"
            )
        function = self._function(operation)
        width = self._forwards[operation].outputs[0].shape[-1]
        return self._batches.run(
            lambda chunk: function(tf.constant(chunk)).numpy(), images, width=width
        )

    def _function(self, operation: Operation) -> Callable[[Any], Any]:
        """The compiled forward pass of an operation, traced when first asked for."""
        if operation not in self._compiled:
            forward = self._forwards[operation]

            def answer(images: Any) -> Any:
                self.traces += 1  # runs when Python does: once a trace
                return forward(preprocess(self.network.preprocessing, images), training=False)

            signature = tf.TensorSpec((None, *self.network.input_size, 3), tf.uint8)
            self._compiled[operation] = tf.function(answer).get_concrete_function(signature)
        return self._compiled[operation]


def load_predictor(
    network: Network, weights: Weights, *, threads: int, max_batch_size: int
) -> Predictor:
    """Build the network and fill it with what weights there are: all, or else the base alone.

    Args:
        network: A catalog row.
        weights: Where weights are looked for. Nothing is downloaded.
        threads: Threads TensorFlow may use. The first call of a process decides.
        max_batch_size: Most pictures that run together.

    Raises:
        WeightsMissing: Neither the whole network nor its base is on this machine.
        MisfitError: The file that is here is not this network's.
    """
    try:
        file = weights.find(network.weights)
        reason = None
    except WeightsMissing as missing:
        if network.base_weights is None:
            raise
        try:
            file = weights.find(network.base_weights)
        except WeightsMissing:
            raise missing from None
        reason = missing.detail
    prepare_tensorflow(threads)
    model = build(network, include_top=reason is None)
    load_weights(model, network.name, file.path, file.format)
    model.trainable = False
    return Predictor(network, model, partial_reason=reason, max_batch_size=max_batch_size)
