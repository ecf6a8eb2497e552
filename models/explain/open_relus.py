"""Rectifiers that a climb can begin behind: one that is shut everywhere lets nothing back.

Grey noise leaves many a filter below zero at every place, and then there is no way up. Lucid, which
knew the trouble first, redirects such gradients (`redirected_relu_grad`, C. Olah et al., "Feature
visualization", 2017, doi:10.23915/distill.00007): where a rectifier would stop all that comes back
to a picture, what pushes its values up goes through; and what is cut off above goes on climbing.
Forward nothing changes, and so neither does what is told of a filter. Only the last rectifiers
before the layer need it.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from models.explain.flat import Flat, Tensor

_SIX = 6.0


def opened(flat: Flat, layer: str) -> Callable[[keras.Layer], keras.Layer]:
    """What to do with each layer of a copy: the last rectifiers before `layer` are replaced.

    Args:
        flat: The network.
        layer: The layer whose filters climb.
    """
    last = _last_rectifiers(flat, layer)

    def clone(one: keras.Layer) -> keras.Layer:
        limit = _limit(one) if one.name in last else None
        return one if limit is None else _open(one, limit)

    return clone


def _last_rectifiers(flat: Flat, layer: str) -> set[str]:
    """The rectifiers that a way back from the layer meets first."""
    found, seen, waiting = set(), set(), [layer]
    producers = {id(step.output): name for name, step in flat.steps.items()}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        step = flat.steps[name]
        if _limit(step.layer) is not None:
            found.add(name)
        else:
            inputs = keras.tree.flatten(step.inputs)
            waiting += [producers[id(one)] for one in inputs if id(one) in producers]
    return found


def _limit(layer: keras.Layer) -> float | None:
    """Where a rectifier cuts off, which may be at infinity; None for a layer that is none."""
    if isinstance(layer, keras.layers.ReLU):
        plain = not layer.negative_slope and not layer.threshold
        return (layer.max_value or float("inf")) if plain else None
    activation = getattr(layer, "activation", None)
    if activation is keras.activations.relu:
        return float("inf")
    return _SIX if activation is keras.activations.relu6 else None


def _open(layer: keras.Layer, limit: float) -> keras.Layer:
    function = _open_relu(limit)
    if isinstance(layer, keras.layers.ReLU):
        return keras.layers.Activation(function, name=layer.name, dtype=layer.dtype_policy)
    copy = type(layer).from_config(layer.get_config())
    if layer.built and layer.weights:
        copy.build_from_config(layer.get_build_config())
        copy.set_weights(layer.get_weights())
    copy.activation = function
    return copy


def _open_relu(limit: float) -> Callable[[Tensor], Tensor]:
    def relu(x: Tensor) -> Any:
        def back(coming: Tensor) -> Tensor:
            zeros = tf.zeros_like(coming)
            passed = tf.where(x > 0, coming, zeros)
            places = tuple(range(1, len(x.shape)))
            shut = tf.reduce_all(tf.equal(passed, 0), axis=places, keepdims=True)
            return tf.where(shut & (x <= 0) & (coming > 0), coming, passed)

        return tf.clip_by_value(x, tf.cast(0, x.dtype), tf.cast(limit, x.dtype)), back

    redirected: Callable[[Tensor], Tensor] = tf.custom_gradient(relu)
    return redirected
