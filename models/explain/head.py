"""The logits of a network: a class's score before a softmax or a sigmoid flattens it.

A confident network gives a probability of 1.0, whose gradient is 0.0, so there would be nothing to
explain; the input of the softmax still has a gradient. It is computed here next to the network,
from the last layer's own weights, because removing that layer's activation would change the
network that answers requests.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras import activations, layers

from models.explain.layer_graph import LayerGraph, LayerNode, Tensor

_SQUASHING = (activations.softmax, activations.sigmoid)
_TRANSPARENT = (layers.Flatten, layers.Reshape, layers.Dropout, layers.Identity)


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a network.

    Attributes:
        before: The symbolic tensor that `logits` takes.
        logits: From that tensor to float32 (n, units).
        units: Width of the output.
        is_binary: Whether one sigmoid represents two classes.
        is_classifier: Whether the output is probabilities and not a regression.
    """

    before: Any
    logits: Callable[[Tensor], Tensor]
    units: int
    is_binary: bool
    is_classifier: bool

    @property
    def classes(self) -> int:
        """The number of classes; of a regression, of outputs."""
        return 2 if self.is_binary else self.units

    def scores(self, before: Tensor, classes: Tensor) -> Tensor:
        """The logit of each image's class, float32 (n,); 0 for a class that does not exist.

        The score of a regression is its output.
        """
        return self.of_class(self.logits(before), classes)

    def of_class(self, logits: Tensor, classes: Tensor) -> Tensor:
        """As `scores`, from the result of `logits`.

        A sigmoid's only logit speaks for class 1 and equally against class 0. This is expressed as
        a weight because OpenVINO cannot read the gradient of two concatenated columns.
        """
        weights = tf.one_hot(classes, self.classes)
        weights = weights[:, 1:] - weights[:, :1] if self.is_binary else weights
        return tf.reduce_sum(logits * weights, axis=-1)

    def class_logits(self, logits: Tensor) -> Tensor:
        """The logits with a column for every class, float32 (n, classes)."""
        return tf.concat([-logits, logits], axis=-1) if self.is_binary else logits

    def probabilities(self, output: Tensor) -> Tensor:
        """The network's output with a column for every class, float32 (n, classes)."""
        output = tf.reshape(tf.cast(output, tf.float32), (-1, self.units))
        return tf.concat([1 - output, output], axis=-1) if self.is_binary else output


def head_of(graph: LayerGraph) -> Head:
    """The head of a classifier or a regression.

    Raises:
        ValueError: Its last layer is of a kind whose logits cannot be computed here.
    """
    tail: list[keras.Layer] = []
    node = graph.producer(graph.output)
    while _is_transparent(node.layer):
        tail.insert(0, node.layer)
        node = graph.producer(node.inputs)
    before, linear, squash = _split(node)
    units = int(graph.output.shape[-1])

    def logits(x: Tensor) -> Tensor:
        x = linear(x)
        for layer in tail:
            x = layer(x)
        return tf.reshape(tf.cast(x, tf.float32), (-1, units))

    return Head(
        before,
        logits,
        units,
        is_binary=units == 1 and squash is activations.sigmoid,
        is_classifier=squash in _SQUASHING,
    )


def _split(node: LayerNode) -> tuple[Any, Callable[[Tensor], Tensor], Any]:
    """The last layer's input, its linear part, and its squashing function."""
    layer = node.layer
    squash = activations.softmax if isinstance(layer, layers.Softmax) else None
    squash = squash or getattr(layer, "activation", None)
    if squash not in _SQUASHING:
        return node.output, lambda x: x, squash  # nothing is squashed: the output is the score
    if isinstance(layer, layers.Softmax | layers.Activation):
        return node.inputs, lambda x: x, squash
    if isinstance(layer, layers.Dense):
        return node.inputs, lambda x: _dense(layer, x), squash
    raise ValueError(f"the logits of a network ending in {type(layer).__name__} are unknown")


def _dense(layer: keras.layers.Dense, x: Tensor) -> Tensor:
    x = tf.cast(x, tf.float32)
    logits = tf.matmul(x, tf.cast(tf.convert_to_tensor(layer.kernel), tf.float32))
    if layer.bias is None:
        return logits
    return logits + tf.cast(tf.convert_to_tensor(layer.bias), tf.float32)


def _is_transparent(layer: keras.Layer) -> bool:
    """Whether a layer only passes its input on, at most in another shape."""
    linear = getattr(layer, "activation", None) is activations.linear
    return isinstance(layer, _TRANSPARENT) or (isinstance(layer, layers.Activation) and linear)
