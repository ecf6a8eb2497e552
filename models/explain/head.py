"""What a class's score is, before a softmax or a sigmoid flattens it.

A network that is sure of itself has a probability of 1.0 whose gradient is 0.0, and so nothing to
explain. What goes into the softmax still moves. It is computed here beside the network, from the
last layer's own weights: to set that layer's activation to none would change the network that
answers requests.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras import activations, layers

from models.explain.layer_graph import Flat, Step, Tensor

_SQUASHING = (activations.softmax, activations.sigmoid)
_TRANSPARENT = (layers.Flatten, layers.Reshape, layers.Dropout, layers.Identity)


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a network.

    Attributes:
        before: The symbolic tensor that `logits` takes.
        logits: From that tensor to float32 (n, units).
        units: Width of the output.
        is_binary: Whether one sigmoid stands for two classes.
        is_classifier: Whether the output is probabilities; of a regression it is any number.
    """

    before: Any
    logits: Callable[[Tensor], Tensor]
    units: int
    is_binary: bool
    is_classifier: bool

    @property
    def classes(self) -> int:
        """How many classes can be asked about; of a regression, its outputs."""
        return 2 if self.is_binary else self.units

    def scores(self, before: Tensor, classes: Tensor) -> Tensor:
        """The logit of each picture's class, float32 (n,); 0 for a class that does not exist.

        Of a regression the output is the score.
        """
        return self.of_class(self.logits(before), classes)

    def of_class(self, logits: Tensor, classes: Tensor) -> Tensor:
        """As `scores`, of what `logits` gave.

        A sigmoid's only logit speaks for class 1, and as much against class 0. That is a weight
        and not a second column: the gradient of two columns in a row OpenVINO cannot read.
        """
        weights = tf.one_hot(classes, self.classes)
        weights = weights[:, 1:] - weights[:, :1] if self.is_binary else weights
        return tf.reduce_sum(logits * weights, axis=-1)

    def class_logits(self, logits: Tensor) -> Tensor:
        """With a column for every class, float32 (n, classes)."""
        return tf.concat([-logits, logits], axis=-1) if self.is_binary else logits

    def probabilities(self, output: Tensor) -> Tensor:
        """The network's output with a column a class, float32 (n, classes)."""
        output = tf.reshape(tf.cast(output, tf.float32), (-1, self.units))
        return tf.concat([1 - output, output], axis=-1) if self.is_binary else output


def head_of(flat: Flat) -> Head:
    """The head of a classifier or a regression.

    Raises:
        ValueError: It ends in a way whose logits are not known here.
    """
    tail: list[keras.Layer] = []
    step = flat.producer(flat.output)
    while _is_transparent(step.layer):
        tail.insert(0, step.layer)
        step = flat.producer(step.inputs)
    before, linear, squash = _taken_apart(step)
    units = int(flat.output.shape[-1])

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


def _taken_apart(step: Step) -> tuple[Any, Callable[[Tensor], Tensor], Any]:
    """What the last layer takes, its linear part, and what it squashes with."""
    layer = step.layer
    squash = activations.softmax if isinstance(layer, layers.Softmax) else None
    squash = squash or getattr(layer, "activation", None)
    if squash not in _SQUASHING:
        return step.output, lambda x: x, squash  # nothing is flattened: the output is the score
    if isinstance(layer, layers.Softmax | layers.Activation):
        return step.inputs, lambda x: x, squash
    if isinstance(layer, layers.Dense):
        return step.inputs, lambda x: _dense(layer, x), squash
    raise ValueError(f"a network ending in {type(layer).__name__} has no logits known here")


def _dense(layer: keras.layers.Dense, x: Tensor) -> Tensor:
    x = tf.cast(x, tf.float32)
    logits = tf.matmul(x, tf.cast(tf.convert_to_tensor(layer.kernel), tf.float32))
    if layer.bias is None:
        return logits
    return logits + tf.cast(tf.convert_to_tensor(layer.bias), tf.float32)


def _is_transparent(layer: keras.Layer) -> bool:
    """Whether a layer only passes its input on, in another shape at most."""
    linear = getattr(layer, "activation", None) is activations.linear
    return isinstance(layer, _TRANSPARENT) or (isinstance(layer, layers.Activation) and linear)
