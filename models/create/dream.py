"""Dreams: an image changed until it excites layers, or a class, of a network more.

DeepDream (Mordvintsev, Olah and Tyka, 2015, "Inceptionism"): gradient ascent on the image, from
small octaves to the full size, shifted a little at each step. As in their notebook, gradients of a
large image are computed in tiles, whose edges move from step to step, so that memory depends on
the tile alone. As in Keras's example, the detail that was lost in a small octave is added again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.ndimage import gaussian_filter

from contracts.create.requests import DreamRequest
from contracts.errors import ValidationFailed
from contracts.inference.explanation import LARGEST_PATTERN
from models.catalog import Preprocessing
from models.create.images import Array, Pixels, resized_array, scaled_size, to_pixels
from models.create.run import ImageRun, TimeUpError
from models.explain.filters import any_size, smallest_side
from models.explain.head import Head, head_of
from models.explain.layer_graph import LayerGraph, Tensor, layers_of
from models.explain.layers import explainable_layer
from models.images.resize import Size
from models.networks.precision import Precision, with_precision
from models.networks.preprocessing import prepare

_EPSILON = 1e-8
_SAVE_EVERY = 10  # steps


class DreamNetwork:
    """A network, and what in it is to be excited.

    Args:
        model: The network; not changed.
        preprocessing: Applied to its images.
        layers: Weights of layers by name; may be empty if there is a class.
        class_index: The class to excite; None for none.
        class_weight: Its weight beside the layers'.
        precision: To compute in.

    Attributes:
        minimum_side: Pixels of the smallest image that it takes.
        fixed_size: Height and width of the only image that it takes; None if it takes any size.

    Raises:
        LayerNotFound: It has no such layer.
        ValidationFailed: A layer has no maps, or there is no such class.
    """

    def __init__(
        self,
        model: keras.Model,
        preprocessing: Preprocessing,
        layers: Mapping[str, float],
        *,
        class_index: int | None = None,
        class_weight: float = 1.0,
        precision: Precision = "float32",
    ) -> None:
        graph = LayerGraph.of(model)
        infos = layers_of(graph)
        for name in layers:
            explainable_layer(infos, name)
        self._head: Head | None = None
        outputs = [graph.nodes[name].output for name in layers]
        if class_index is not None:
            self._head = head_of(graph)
            if class_index >= self._head.classes:
                raise ValidationFailed(
                    f"class_index: the network has {self._head.classes} classes, numbered from 0."
                )
            outputs.append(self._head.before)
        self._class, self._class_weight = class_index, class_weight
        self._layer_weights = list(layers.values())
        self._preprocessing = preprocessing
        self._channels = int(graph.image.shape[-1])
        part = with_precision(graph.model_to(*outputs), precision)
        self.fixed_size: tuple[int, int] | None = None
        if any(isinstance(layer, keras.layers.Flatten) for layer in part.layers):
            # Dense layers take maps of one size.
            self.fixed_size = int(graph.image.shape[1]), int(graph.image.shape[2])
        else:
            part = any_size(LayerGraph.of(part).model)
        self._part = part
        smallest = smallest_side(part, LARGEST_PATTERN) or 1
        self.minimum_side = max(self.fixed_size) if self.fixed_size else smallest
        self._gradient = tf.function(
            self._score_and_gradient,
            input_signature=[tf.TensorSpec((1, None, None, 3), tf.float32)],
        )

    def gradient(self, tile: Array) -> tuple[float, Array]:
        """The score of a tile and its gradient.

        Args:
            tile: float32 (height, width, 3), levels of 0 to 255.
        """
        score, gradient = self._gradient(tf.constant(tile[np.newaxis]))
        return float(score), gradient.numpy()[0]

    def _score_and_gradient(self, image: Tensor) -> tuple[Tensor, Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(image)
            x = prepare(self._preprocessing, image, self._channels)
            outputs = keras.tree.flatten(self._part(x, training=False))
            score = tf.constant(0.0)
            for weight, maps in zip(self._layer_weights, outputs, strict=False):
                # The logarithm makes weights of layers comparable, whatever their activations.
                energy = tf.reduce_mean(tf.square(tf.cast(maps, tf.float32)))
                score += weight * tf.math.log(energy + _EPSILON)
            if self._head is not None:
                classes = tf.constant([self._class], tf.int32)
                logits = self._head.scores(tf.cast(outputs[-1], tf.float32), classes)
                score += self._class_weight * tf.reduce_sum(logits)
        return score, tape.gradient(score, image)


@dataclass(slots=True)
class _State:
    """Where a dream is: octave, steps in it, and the image."""

    octave: int
    step: int
    image: Array


class Dream:
    """One dream.

    Args:
        original: float32 (height, width, 3), levels of 0 to 255, of the result's size.
    """

    def __init__(self, network: DreamNetwork, request: DreamRequest, original: Array) -> None:
        self._network = network
        self._request = request
        self._original = original
        height, width = original.shape[:2]
        self._sizes = octave_sizes((width, height), request, network.minimum_side)
        side = max(request.tile_size, network.minimum_side)
        self._tile = network.fixed_size or (side, side)
        self._cost = sum(size[0] * size[1] for size in self._sizes) * request.iterations

    def run(self, run: ImageRun) -> Pixels:
        """The result.

        Raises:
            WorkStoppedError: The job was stopped; a checkpoint remains.
        """
        state = self._restored(run.load()) or _State(0, 0, self._resized(0))
        try:
            with run.keeping_latest():
                while True:
                    self._run_octave(state, run)
                    if state.octave + 1 == len(self._sizes):
                        break
                    self._enter_next(state)
        except TimeUpError:
            while state.octave + 1 < len(self._sizes):
                self._enter_next(state)
        return to_pixels(state.image)

    def _run_octave(self, state: _State, run: ImageRun) -> None:
        request, size = self._request, self._sizes[state.octave]
        before = sum(one[0] * one[1] for one in self._sizes[: state.octave]) * request.iterations
        while state.step < request.iterations:
            number = state.octave * request.iterations + state.step
            if number % _SAVE_EVERY == 0:
                run.save({"place": np.array([state.octave, state.step]), "image": state.image})
            score = self._ascend(state, number, run.check)
            state.step += 1
            image = partial(to_pixels, state.image)
            run.step(
                number + 1,
                fraction=(before + size[0] * size[1] * state.step) / self._cost,
                phase=f"octave {state.octave + 1}",
                row={"score": score},
                image=image,
            )

    def _ascend(self, state: _State, number: int, check: Callable[[], None]) -> float:
        """One step; the image changes by `step_levels` on average."""
        random = np.random.default_rng((self._request.seed, number))
        # With several tiles, a shift of up to a whole one: no pixel always lies at an edge.
        largest = self._request.jitter
        sides = zip(state.image.shape[:2], self._tile, strict=True)
        if any(length > tile for length, tile in sides):
            largest = max(largest, max(self._tile) // 2)
        down, across = (int(shift) for shift in random.integers(-largest, largest + 1, 2))
        image = np.roll(state.image, (down, across), (0, 1))
        score, gradient = self._whole_gradient(image, check)
        if self._request.smoothing:
            gradient = smoothed(gradient, self._request.smoothing)
        step = self._request.step_levels / (float(np.abs(gradient).mean()) + _EPSILON)
        image = np.clip(image + np.float32(step) * gradient, 0, 255)
        state.image = np.roll(image, (-down, -across), (0, 1))
        return score

    def _whole_gradient(self, image: Array, check: Callable[[], None]) -> tuple[float, Array]:
        """The mean score of all tiles and the gradient; a small image is repeated to fill one."""
        height, width = image.shape[:2]
        rows, columns = self._network.fixed_size or (0, 0)
        padding = ((0, max(0, rows - height)), (0, max(0, columns - width)), (0, 0))
        image = np.pad(image, padding, "wrap")
        high, wide = map(min, self._tile, image.shape)
        gradient, scores = np.zeros_like(image), []
        for row, column in product(_starts(image.shape[0], high), _starts(image.shape[1], wide)):
            check()
            place = np.s_[row : row + high, column : column + wide]
            score, gradient[place] = self._network.gradient(np.ascontiguousarray(image[place]))
            scores.append(score)
        return float(np.mean(scores)), gradient[:height, :width]

    def _enter_next(self, state: _State) -> None:
        """The next octave: the image scaled up, and the original's detail that was lost."""
        size = self._sizes[state.octave + 1]
        lost = self._resized(state.octave + 1) - resized_array(self._resized(state.octave), size)
        state.image = np.clip(resized_array(state.image, size) + lost, 0, 255)
        state.octave, state.step = state.octave + 1, 0

    def _resized(self, octave: int) -> Array:
        size = self._sizes[octave]
        same = size == (self._original.shape[1], self._original.shape[0])
        return self._original if same else resized_array(self._original, size)

    @staticmethod
    def _restored(arrays: Mapping[str, npt.NDArray[Any]] | None) -> _State | None:
        if arrays is None:
            return None
        octave, step = (int(number) for number in arrays["place"])
        return _State(octave, step, arrays["image"])


def smoothed(gradient: Array, width: float) -> Array:
    """The gradient without its finest noise: the sum of three Gaussian filters, as others do.

    Strided convolutions without a following pooling leave a pattern of dots in the gradient, which
    would hide all shapes.

    Args:
        width: Standard deviation of the middle one in pixels; the others have half and twice that.
    """
    total = np.zeros_like(gradient)
    for factor in (0.5, 1.0, 2.0):
        deviation = width * factor
        total += gaussian_filter(gradient, (deviation, deviation, 0), mode="wrap")
    return total


def octave_sizes(size: Size, request: DreamRequest, minimum: int) -> list[Size]:
    """The sizes of the octaves, ascending; those too small for the network are left out."""
    sides = [max(size) / request.octave_scale**n for n in range(request.octaves - 1, 0, -1)]
    sizes = [scaled_size(size, round(side)) for side in sides if round(side) >= 1]
    return [one for one in sizes if min(one) >= minimum] + [size]


def _starts(length: int, side: int) -> list[int]:
    """Where tiles begin along a side; the last one ends with the image."""
    return [*range(0, length - side, side), max(0, length - side)]
