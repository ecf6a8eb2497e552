"""The pattern that excites a filter most: gradient ascent on an image that begins as noise.

Activation maximization (Erhan et al., 2009; Simonyan et al., 2013, arXiv:1312.6034, section 2)
with the normalization of the classic Keras tutorial (F. Chollet, "How convolutional neural
networks see the world", 2016): the step is g / (sqrt(mean(g^2)) + eps), so that every filter moves
at the same pace whatever its scale. Far from the start, where a step changes little, one gradient
serves for up to four of them (`shared_steps`). All filters ascend at once, each on its own image
of one batch. Octaves and jitter are those of DeepDream (Mordvintsev et al., 2015): large shapes
first, then fine ones, and no pixel that is always under the same stride.

Gray noise leaves many filters below zero everywhere, and a rectifier that is shut everywhere has no
gradient. As Lucid does (`redirected_relu_grad`, C. Olah et al., "Feature visualization", 2017,
doi:10.23915/distill.00007), the gradient that would raise its values then passes through, and so
does one that an upper limit would stop. The forward pass does not change, so neither do the
activations that are reported. Only the last rectifiers before the layer need this.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contracts.errors import ValidationFailed
from contracts.inference.explanation import LARGEST_PATTERN
from contracts.queue.messages import Pixels
from models.catalog import Preprocessing
from models.explain.layer_graph import LayerGraph, Tensor
from models.networks.precision import Precision, with_precision
from models.networks.preprocessing import prepare

_EPSILON = 1e-5
_GRAY, _GRAIN = 128.0, 20.0  # mean and range of the noise in levels, as in the tutorial
_MAX_PIXELS = 25 * 160 * 160  # in a batch; a deep layer holds some hundred floats for each
_NO_GRADIENT = 1e-12
_SMALLEST_OCTAVE = 16  # pixels: anything smaller has no visible shape
_RELU6_LIMIT = 6.0
# Steps with one gradient; steps after which one more shares it; steps at the end with one each.
_MAX_SHARED, _EXACT, _LAST = 4, 4, 4
_LOST = 0.5  # of the best activation so far: a filter that falls below it takes small steps
_RIM = 8  # a map's rim, which does not count, is this fraction of its side

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Ascent:
    """How to ascend; see `contracts.inference.explanation.FiltersRequest`."""

    steps: int = 50
    step_size: float = 0.9
    image_size: int = 128
    octaves: int = 1
    octave_scale: float = 1.4
    jitter: int = 0
    seed: int = 0
    contrast: float = 0.15

    def sizes(self, minimum: int) -> list[int]:
        """The side of the image in each octave, ascending; none is below `minimum` pixels."""
        minimum = max(_SMALLEST_OCTAVE, minimum)
        down = range(self.octaves - 1, -1, -1)
        return [max(minimum, round(self.image_size / self.octave_scale**n)) for n in down]


@dataclass(frozen=True, slots=True)
class Patterns:
    """The patterns of some filters.

    Attributes:
        images: uint8 (n, image_size, image_size, 3), stretched to a visible contrast.
        activations: The mean activation of each filter at the end, without the map's rim, (n,).
        blank: Whether a filter never had a gradient, so that its image is still noise, (n,).
    """

    images: Pixels
    activations: Array
    blank: npt.NDArray[np.bool_]


class Filters:
    """The filters of one layer.

    Args:
        model: The network; not changed.
        preprocessing: Applied to its images.
        layer: The layer; up to it the network must take any size.
        precision: To compute in. Many values together decide the direction of a step, so
            bfloat16's eight bits of each show the same shapes.
    """

    def __init__(
        self,
        model: keras.Model,
        preprocessing: Preprocessing,
        layer: str,
        precision: Precision = "float32",
    ) -> None:
        graph = LayerGraph.of(model)
        self._channels = int(graph.image.shape[-1])
        self._preprocessing = preprocessing
        output = graph.nodes[layer].output
        part = LayerGraph.of(with_precision(graph.model_to(output), precision))
        self._part = any_size(part.model, _open_last_rectifiers(part, layer))
        self._layer = layer
        self.count = int(output.shape[-1])
        self._compiled_step = tf.function(
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
        """The patterns of these filters, as many computed at once as fit in bounded memory.

        A pattern does not depend on which others are computed with it.

        Args:
            filters: Their numbers, at least one.
            ascent: The parameters.
            progress: Called with the fraction done after each step; may raise to stop.

        Raises:
            ValidationFailed: The layer has no such filter, or the images are too small for it.
        """
        if max(filters) >= self.count or min(filters) < 0:
            raise ValidationFailed(f"The layer has the filters 0 to {self.count - 1}.")
        sizes = ascent.sizes(self._require_size(ascent))
        batch_size = max(1, _MAX_PIXELS // ascent.image_size**2)
        total, batches = len(filters), []
        for start in range(0, total, batch_size):
            batch = np.array(filters[start : start + batch_size], np.int32)

            def report(fraction: float, start: int = start, count: int = len(batch)) -> None:
                progress((start + count * fraction) / total)

            batches.append(self._patterns(batch, ascent, sizes, report))
        images, activations, blank = (
            np.concatenate(arrays) for arrays in zip(*batches, strict=True)
        )
        return Patterns(_visible(images, ascent.contrast), activations, blank)

    @cached_property
    def _minimum_side(self) -> int | None:
        """Takes a second for a deep network, so it is computed if it matters."""
        return smallest_side(self._part, LARGEST_PATTERN)

    def _patterns(
        self,
        filters: npt.NDArray[np.int32],
        ascent: Ascent,
        sizes: Sequence[int],
        progress: Callable[[float], None],
    ) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
        """Ascend, and once more with a gradient for each step where long steps lost the way."""
        images, activations, blank, lost = self._ascend(filters, ascent, sizes, progress)
        if lost.any():
            again = self._ascend(
                filters[lost], ascent, sizes, lambda _: progress(1.0), shared=lambda *_: 1
            )
            images[lost], activations[lost], blank[lost] = again[:3]
        return images, activations, blank

    def _require_size(self, ascent: Ascent) -> int:
        """A side that reaches the layer, from which octaves may start."""
        side = ascent.image_size
        if ascent.octaves == 1 and _fits(self._part, side):
            return _SMALLEST_OCTAVE  # only the one side counts
        if self._minimum_side is None:
            raise ValidationFailed(
                f"No image of up to {LARGEST_PATTERN} x {LARGEST_PATTERN} pixels reaches layer "
                f"'{self._layer}'. Choose an earlier one."
            )
        if side < self._minimum_side:
            raise ValidationFailed(
                f"image_size: of {side} x {side} pixels nothing is left at layer "
                f"'{self._layer}'. Send {self._minimum_side} or more, or choose an earlier layer."
            )
        return self._minimum_side

    def _ascend(
        self,
        filters: npt.NDArray[np.int32],
        ascent: Ascent,
        sizes: Sequence[int],
        progress: Callable[[float], None],
        *,
        shared: Callable[[int, int], int] | None = None,
    ) -> tuple[Array, Array, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Images, activations, which are blank, and which have lost activation on the way."""
        shared = shared or shared_steps
        random = np.random.default_rng(ascent.seed)
        numbers = tf.constant(filters)
        noise = random.random((1, sizes[0], sizes[0], 3), np.float32)  # the same for every filter
        x = tf.constant(np.repeat((noise - 0.5) * _GRAIN + _GRAY, len(filters), axis=0))
        largest_gradients = np.zeros(len(filters), np.float32)
        activations = np.zeros(len(filters), np.float32)
        lost = np.zeros(len(filters), np.bool_)
        for octave, size in enumerate(sizes):
            if octave:
                x = tf.image.resize(x, (size, size), method="bicubic")
            step, best = 0, np.zeros(len(filters), np.float32)
            while step < ascent.steps:
                steps = shared(step, ascent.steps)
                shift = random.integers(-ascent.jitter, ascent.jitter + 1, 2, dtype=np.int32)
                length = tf.constant(ascent.step_size * steps, tf.float32)
                x, means, gradients = self._compiled_step(x, numbers, length, tf.constant(shift))
                largest_gradients = np.maximum(largest_gradients, gradients.numpy())
                activations = means.numpy()
                lost |= (step > _EXACT) & (activations < _LOST * best)
                best = np.maximum(best, activations)
                step += steps
                progress((octave * ascent.steps + step) / (len(sizes) * ascent.steps))
        return x.numpy(), activations, largest_gradients < _NO_GRADIENT, lost

    def _step(
        self, x: Tensor, filters: Tensor, step_size: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step: the images, and each filter's mean activation and gradient magnitude."""
        x = tf.roll(x, shift, axis=(1, 2))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            maps = self._part(prepare(self._preprocessing, x, self._channels), training=False)
            means = _inner_means(tf.cast(maps, tf.float32))
            activations = tf.gather(means, filters, axis=1, batch_dims=1)
        gradient = tape.gradient(activations, x)
        size = tf.sqrt(tf.reduce_mean(tf.square(gradient), axis=(1, 2, 3)))
        x += step_size * gradient / (size[:, tf.newaxis, tf.newaxis, tf.newaxis] + _EPSILON)
        return tf.roll(x, -shift, axis=(1, 2)), activations, size


def shared_steps(done: int, total: int) -> int:
    """For how many steps one gradient serves after so many of them.

    All steps are equally long, so the first ones change an image of noise much and later ones
    little: after 12 steps, four more add a third of what there is. A filter that still sleeps by
    then loses its way, and ascends again by single steps. The last ones, each with a
    gradient of its own, bring the activation to where small steps would have brought it.
    """
    left = total - done
    return 1 if left <= _LAST else min(_MAX_SHARED, 1 + done // _EXACT, left - _LAST)


def _inner_means(maps: Tensor) -> Tensor:
    """The mean of each map (n, h, w, channels) without its rim: (n, channels).

    Layers pad with zeros, and a filter that responds to that edge would draw a frame, or a stripe
    and nothing else, because the mean grows with every position at the border. An eighth of the
    map on each side is left out, as far as the padding of the layers before it reaches.
    """
    height, width = tf.shape(maps)[1], tf.shape(maps)[2]
    down, across = height // _RIM, width // _RIM
    return tf.reduce_mean(maps[:, down : height - down, across : width - across], axis=(1, 2))


def _visible(images: Array, contrast: float) -> Pixels:
    """As in the tutorial: centered, scaled to one contrast and clipped."""
    centered = images - images.mean(axis=(1, 2, 3), keepdims=True)
    centered /= images.std(axis=(1, 2, 3), keepdims=True) + _EPSILON
    visible: Pixels = ((centered * contrast + 0.5).clip(0, 1) * 255).astype(np.uint8)
    return visible


def any_size(
    part: keras.Model, clone: Callable[[keras.Layer], keras.Layer] = lambda layer: layer
) -> keras.Model:
    """The same layers, or what `clone` makes of them, on an image of any size."""
    image = keras.Input((None, None, part.inputs[0].shape[-1]))
    return keras.models.clone_model(
        part,
        input_tensors=keras.tree.pack_sequence_as(part.input, [image]),
        clone_function=clone,
    )


def smallest_side(part: keras.Model, maximum: int) -> int | None:
    """The side of the smallest square image that leaves no map empty.

    It is computed from shapes alone, before anything runs: a kernel that meets an empty map may
    end the process.

    Args:
        part: From an image of any size to maps. If a side is large enough, so is a larger one.
        maximum: The largest side to try.

    Returns:
        Pixels; None if `maximum` is too small.
    """
    sides = range(1, maximum + 1)
    index = bisect_left(sides, True, key=lambda side: _fits(part, side))
    return sides[index] if index < maximum else None


def _fits(part: keras.Model, side: int) -> bool:
    image = keras.Input((side, side, part.inputs[0].shape[-1]))
    try:
        keras.models.clone_model(
            part,
            input_tensors=keras.tree.pack_sequence_as(part.input, [image]),
            clone_function=lambda layer: layer,
            call_function=_call_unless_empty,
        )
    except ValueError:  # Keras raises it for some sides below one
        return False
    return True


def _call_unless_empty(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
    output = layer(*args, **kwargs)
    for tensor in keras.tree.flatten(output):
        if any(side is not None and side < 1 for side in tensor.shape):
            raise ValueError(f"Nothing is left after {layer.name}.")
    return output


def _open_last_rectifiers(graph: LayerGraph, layer: str) -> Callable[[keras.Layer], keras.Layer]:
    """A clone function that replaces the last rectifiers before `layer` by open ones."""
    last = _last_rectifiers(graph, layer)

    def clone(original: keras.Layer) -> keras.Layer:
        limit = _rectifier_limit(original) if original.name in last else None
        return original if limit is None else _with_open_relu(original, limit)

    return clone


def _last_rectifiers(graph: LayerGraph, layer: str) -> set[str]:
    """The rectifiers that the backward pass from the layer meets first."""
    rectifiers, seen, pending = set(), set(), [layer]
    producers = {id(node.output): name for name, node in graph.nodes.items()}
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        node = graph.nodes[name]
        if _rectifier_limit(node.layer) is not None:
            rectifiers.add(name)
        else:
            inputs = keras.tree.flatten(node.inputs)
            pending += [producers[id(tensor)] for tensor in inputs if id(tensor) in producers]
    return rectifiers


def _rectifier_limit(layer: keras.Layer) -> float | None:
    """The upper limit of a rectifier, which may be infinite; None for any other layer."""
    if isinstance(layer, keras.layers.ReLU):
        plain = not layer.negative_slope and not layer.threshold
        return (layer.max_value or float("inf")) if plain else None
    activation = getattr(layer, "activation", None)
    if activation is keras.activations.relu:
        return float("inf")
    return _RELU6_LIMIT if activation is keras.activations.relu6 else None


def _with_open_relu(layer: keras.Layer, limit: float) -> keras.Layer:
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
    """A rectifier whose gradient reaches an image for which it is shut everywhere."""

    def relu(x: Tensor) -> Any:
        def backward(upstream: Tensor) -> Tensor:
            zeros = tf.zeros_like(upstream)
            passed = tf.where(x > 0, upstream, zeros)
            axes = tuple(range(1, len(x.shape)))
            shut = tf.reduce_all(tf.equal(passed, 0), axis=axes, keepdims=True)
            return tf.where(shut & (x <= 0) & (upstream > 0), upstream, passed)

        return tf.clip_by_value(x, tf.cast(0, x.dtype), tf.cast(limit, x.dtype)), backward

    redirected: Callable[[Tensor], Tensor] = tf.custom_gradient(relu)
    return redirected
