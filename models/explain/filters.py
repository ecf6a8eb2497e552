"""The pattern that excites a filter most: gradient ascent on a picture that begins as noise.

Activation maximisation (Erhan et al., 2009; Simonyan et al., 2013, arXiv:1312.6034, section 2) with
the normalisation of the classic Keras tutorial (F. Chollet, "How convolutional neural networks see
the world", 2016): the step is g / (sqrt(mean(g^2)) + eps), so that every filter moves at the same
pace whatever its scale. All filters climb at once, each on its own picture of one batch. Octaves
and jitter are those of DeepDream (Mordvintsev et al., 2015): large shapes first, then fine ones,
and no pixel that is always under the same stride.

Rectifiers that a climb can begin behind: one that is shut everywhere lets nothing back.

Grey noise leaves many a filter below zero at every place, and then there is no way up. Lucid, which
knew the trouble first, redirects such gradients (`redirected_relu_grad`, C. Olah et al., "Feature
visualization", 2017, doi:10.23915/distill.00007): where a rectifier would stop all that comes back
to a picture, what pushes its values up goes through; and what is cut off above goes on climbing.
Forward nothing changes, and so neither does what is told of a filter. Only the last rectifiers
before the layer need it.

The smallest picture that a part of a network takes: below it some map has no pixel left.

Told from shapes alone, before anything runs: a kernel that meets an empty map may end the process.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contracts.errors import ValidationFailed
from contracts.inference.explanation import LARGEST_PATTERN
from contracts.queue.messages import Pixels
from models.catalog import Preprocessing
from models.explain.layer_graph import Flat, Tensor
from models.networks.precision import Precision, in_precision
from models.networks.preprocessing import prepare

_EPSILON = 1e-5
_GREY, _GRAIN = 128.0, 20.0  # levels the noise is around, and its width, as in the tutorial
_CONTRAST = 0.15  # the tutorial's: standard deviation of what is shown, of 0 to 1
_MOST_PIXELS = 25 * 160 * 160  # run together; a deep layer holds some hundred floats for each
_EMPTY = 1e-12
_SMALLEST_OCTAVE = 16  # pixels: in less there is no shape to see

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Ascent:
    """How to climb; see `contracts.inference.explanation.FiltersRequest`."""

    steps: int = 50
    step_size: float = 0.9
    image_size: int = 128
    octaves: int = 1
    octave_scale: float = 1.4
    jitter: int = 0
    seed: int = 0

    def sizes(self, least: int) -> list[int]:
        """The side of the picture in each octave, ascending; none is below `least` pixels."""
        least = max(_SMALLEST_OCTAVE, least)
        down = range(self.octaves - 1, -1, -1)
        return [max(least, round(self.image_size / self.octave_scale**n)) for n in down]


@dataclass(frozen=True, slots=True)
class Patterns:
    """What came of it.

    Attributes:
        pictures: uint8 (n, image_size, image_size, 3), stretched to what can be seen.
        activations: The mean activation of each filter at the end, (n,).
        blank: Whether nothing ever moved a filter, so that its picture is still noise, (n,).
    """

    pictures: Pixels
    activations: Array
    blank: npt.NDArray[np.bool_]


class Filters:
    """The filters of one layer.

    Args:
        model: The network; only looked at.
        preprocessing: What is done to its pictures first.
        layer: The layer; up to it the network must take any size.
        precision: To compute in. Which way is up is decided by many values together, so that
            bfloat16's eight bits of each show the same shapes.
    """

    def __init__(
        self,
        model: keras.Model,
        preprocessing: Preprocessing,
        layer: str,
        precision: Precision = "float32",
    ) -> None:
        flat = Flat.of(model)
        self._channels = int(flat.image.shape[-1])
        self._preprocessing = preprocessing
        part = Flat.of(in_precision(flat.to(flat.steps[layer].output), precision))
        self._part = any_size(part.model, opened(part, layer))
        self._layer = layer
        self._least = smallest_side(self._part, LARGEST_PATTERN)
        self.count = int(flat.steps[layer].output.shape[-1])
        self._climb = tf.function(
            self._step,
            input_signature=[
                tf.TensorSpec((None, None, None, 3), tf.float32),
                tf.TensorSpec((None,), tf.int32),
                tf.TensorSpec((), tf.float32),
                tf.TensorSpec((2,), tf.int32),
            ],
        )

    def patterns(
        self,
        filters: Sequence[int],
        ascent: Ascent,
        *,
        progress: Callable[[float], None] = lambda _fraction: None,
    ) -> Patterns:
        """Climb for all of these filters, as many at once as fit in a bounded memory.

        A pattern does not depend on which others are made beside it.

        Args:
            filters: Their numbers, at least one.
            ascent: How.
            progress: Told the fraction done after each step; may raise to stop.

        Raises:
            ValidationFailed: The layer has no such filter, or the pictures are too small for it.
        """
        if max(filters) >= self.count or min(filters) < 0:
            raise ValidationFailed(f"The layer has the filters 0 to {self.count - 1}.")
        least = self._require_size(ascent.image_size)
        together = max(1, _MOST_PIXELS // ascent.image_size**2)
        total, made = len(filters), []
        for at in range(0, total, together):
            part = np.array(filters[at : at + together], np.int32)

            def within(fraction: float, at: int = at, count: int = len(part)) -> None:
                progress((at + count * fraction) / total)

            made.append(self._ascend(part, ascent, ascent.sizes(least), within))
        pictures, activations, blank = (
            np.concatenate(arrays) for arrays in zip(*made, strict=True)
        )
        return Patterns(_shown(pictures), activations, blank)

    def _require_size(self, side: int) -> int:
        """The smallest side that the layer can be reached from, when `side` is no smaller."""
        if self._least is None:
            raise ValidationFailed(
                f"No picture of up to {LARGEST_PATTERN} x {LARGEST_PATTERN} pixels reaches layer "
                f"'{self._layer}'. Choose an earlier one."
            )
        if side < self._least:
            raise ValidationFailed(
                f"image_size: of {side} x {side} pixels nothing is left at layer "
                f"'{self._layer}'. Send {self._least} or more, or choose an earlier layer."
            )
        return self._least

    def _ascend(
        self,
        filters: npt.NDArray[np.int32],
        ascent: Ascent,
        sizes: Sequence[int],
        progress: Callable[[float], None],
    ) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
        random = np.random.default_rng(ascent.seed)
        numbers, step_size = tf.constant(filters), tf.constant(ascent.step_size)
        noise = random.random((1, sizes[0], sizes[0], 3), np.float32)  # the same for every filter
        x = tf.constant(np.repeat((noise - 0.5) * _GRAIN + _GREY, len(filters), axis=0))
        moved = np.zeros(len(filters), np.float32)
        activations = np.zeros(len(filters), np.float32)
        for octave, size in enumerate(sizes):
            if octave:
                x = tf.image.resize(x, (size, size), method="bicubic")
            for step in range(ascent.steps):
                shift = random.integers(-ascent.jitter, ascent.jitter + 1, 2, dtype=np.int32)
                x, found, size_of_gradient = self._climb(x, numbers, step_size, tf.constant(shift))
                moved = np.maximum(moved, size_of_gradient.numpy())
                activations = found.numpy()
                progress((octave * ascent.steps + step + 1) / (len(sizes) * ascent.steps))
        return x.numpy(), activations, moved < _EMPTY

    def _step(
        self, x: Tensor, filters: Tensor, step_size: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step up: the pictures, and each filter's mean activation and size of gradient."""
        x = tf.roll(x, shift, axis=(1, 2))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            maps = self._part(prepare(self._preprocessing, x, self._channels), training=False)
            means = tf.reduce_mean(tf.cast(maps, tf.float32), axis=(1, 2))
            activations = tf.gather(means, filters, axis=1, batch_dims=1)
        gradient = tape.gradient(activations, x)
        size = tf.sqrt(tf.reduce_mean(tf.square(gradient), axis=(1, 2, 3)))
        x += step_size * gradient / (size[:, tf.newaxis, tf.newaxis, tf.newaxis] + _EPSILON)
        return tf.roll(x, -shift, axis=(1, 2)), activations, size


def any_size(
    part: keras.Model, clone: Callable[[keras.Layer], keras.Layer] = lambda layer: layer
) -> keras.Model:
    """The same layers, or what `clone` makes of them, on a picture of any size."""
    image = keras.Input((None, None, part.inputs[0].shape[-1]))
    return keras.models.clone_model(
        part,
        input_tensors=keras.tree.pack_sequence_as(part.input, [image]),
        clone_function=clone,
    )


def _shown(pictures: Array) -> Pixels:
    """As in the tutorial: centred, to one contrast, cut off at the ends."""
    centred = pictures - pictures.mean(axis=(1, 2, 3), keepdims=True)
    centred /= pictures.std(axis=(1, 2, 3), keepdims=True) + _EPSILON
    shown: Pixels = ((centred * _CONTRAST + 0.5).clip(0, 1) * 255).astype(np.uint8)
    return shown


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


def smallest_side(part: keras.Model, most: int) -> int | None:
    """The side of the smallest square picture that leaves no map empty.

    Args:
        part: From a picture of any size to maps. What takes a size takes every larger one.
        most: Sides above it are not looked at.

    Returns:
        Pixels; None if `most` is too small.
    """
    sides = range(1, most + 1)
    at = bisect_left(sides, True, key=lambda side: _fits(part, side))
    return sides[at] if at < most else None


def _fits(part: keras.Model, side: int) -> bool:
    image = keras.Input((side, side, part.inputs[0].shape[-1]))
    try:
        keras.models.clone_model(
            part,
            input_tensors=keras.tree.pack_sequence_as(part.input, [image]),
            clone_function=lambda layer: layer,
            call_function=_called,
        )
    except ValueError:  # what Keras raises for a side below one, where it does
        return False
    return True


def _called(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
    output = layer(*args, **kwargs)
    for tensor in keras.tree.flatten(output):
        if any(side is not None and side < 1 for side in tensor.shape):
            raise ValueError(f"Nothing is left after {layer.name}.")
    return output
