"""Why a network chose a class, as a coarse grid over the picture: one traceable function.

Grad-CAM (Selvaraju et al., 2017, arXiv:1610.02391, eq. 1 and 2) weighs each map of a convolution
by the mean of its gradient; HiResCAM (Draelos and Carin, 2020, arXiv:2011.08891) weighs each
value by its own gradient. Both take the gradient of the logit: a softmax that is sure of itself
has none.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

Tensor = Any
"""A TensorFlow tensor; TensorFlow ships no types."""

Weigh = Callable[[Tensor, Tensor], Tensor]
"""From maps and their gradients, both (n, gh, gw, channels), to evidence (n, gh, gw)."""


def grad_cam(maps: Tensor, gradients: Tensor) -> Tensor:
    """Each map counts as much as its gradient does on average over the picture."""
    weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
    return tf.reduce_sum(weights * maps, axis=-1)


def hires_cam(maps: Tensor, gradients: Tensor) -> Tensor:
    """Each value counts as much as its own gradient."""
    return tf.reduce_mean(maps * gradients, axis=-1)


class Explained(NamedTuple):
    """What one pass forward and one back tell.

    Attributes:
        grids: float32 (n, gh, gw) in 0..1, the strongest evidence being 1. Without positive
            evidence a grid is all zeros.
        targets: The class that each explains, int32 (n,).
        probabilities: How probable the network holds it, float32 (n,).
    """

    grids: Tensor
    targets: Tensor
    probabilities: Tensor


def explainer(
    model: keras.Model, layer: str, weigh: Weigh
) -> Callable[[Tensor, Tensor], Explained]:
    """A function from preprocessed pictures and classes to grids.

    Args:
        model: A flat classifier.
        layer: The convolution whose maps are weighed.
        weigh: How.

    Returns:
        A function of float32 (n, h, w, channels) and int32 (n,). A negative class stands for the
        most probable one; one that does not exist gives zeros.
    """
    last = model.layers[-1]
    taps = keras.Model(model.inputs[0], [model.get_layer(layer).output, last.input])

    def explained(inputs: Tensor, classes: Tensor) -> Explained:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            # The input is watched so that a frozen network, too, leaves a trace on the tape.
            tape.watch(inputs)
            maps, before_last = taps(inputs, training=False)
            logits = _logits(last, before_last)
            top = tf.argmax(logits, axis=-1, output_type=tf.int32)
            targets = tf.where(classes < 0, top, classes)
            chosen = tf.one_hot(targets, logits.shape[-1])
            evidence = tf.reduce_sum(logits * chosen)
        grids = _scaled(weigh(maps, tape.gradient(evidence, maps)))
        return Explained(grids, targets, tf.reduce_sum(last(before_last) * chosen, axis=-1))

    return explained


def _logits(last: keras.Layer, x: Tensor) -> Tensor:
    """What goes into the softmax, whether it is a layer of its own or a dense layer's end."""
    if isinstance(last, keras.layers.Dense):
        return tf.matmul(x, tf.convert_to_tensor(last.kernel)) + tf.convert_to_tensor(last.bias)
    if isinstance(last, keras.layers.Softmax | keras.layers.Activation):
        return x
    raise ValueError(f"a network ending in {type(last).__name__} has no logits that are known here")


def _scaled(evidence: Tensor) -> Tensor:
    positive = tf.nn.relu(evidence)
    return tf.math.divide_no_nan(positive, tf.reduce_max(positive, axis=(1, 2), keepdims=True))
