"""One style transfer, as Opsin computes it and as a loop over a `GradientTape` does.

Both have the same losses, network and weights. The tutorials send content, style and image through
the network in every step; the stricter rival computes the targets once.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from PIL import Image

from benchmarks.create.patterns import STYLES
from benchmarks.create.sheets import PHOTOS
from contracts.create.requests import StyleNetwork
from contracts.settings import Settings
from models.create.features import LAYERS, FeatureNetwork
from models.create.style.losses import content_loss, gram_matrix, style_loss, total_variation
from models.create.style.objective import LossWeights, Objective
from models.create.style.weights import available_network
from models.networks.precision import fastest_precision
from models.serving.devices import prepare_tensorflow
from models.weights.catalog import Weights

Array = npt.NDArray[np.float32]


class Problem:
    """A content, a style and their losses, for every rival.

    Args:
        pair: Content and style, float32 of one size.
    """

    def __init__(
        self, network: FeatureNetwork, name: StyleNetwork, pair: tuple[Array, Array]
    ) -> None:
        layers = LAYERS[name]
        self.network, self.split = network, len(layers.content)
        factor = layers.factor("average")
        self.weights = LossWeights(layers.content_factor * factor, layers.style_factor * factor, 1)
        self.content, self.style = (tf.constant(one[np.newaxis]) for one in pair)
        self.objective = Objective(network, self.split, self.weights)
        self.objective.set_targets(pair[0], [pair[1]], [1.0], evaluations=1000)
        self.targets = self._targets(network(self.content), network(self.style))

    def plain(self, image: Array, *, all_three: bool) -> tuple[float, Array]:
        """Loss and gradient by a tape, operator by operator."""
        variable = tf.Variable(image[np.newaxis])
        with tf.GradientTape() as tape:
            if all_three:
                batch = tf.concat([self.content, self.style, variable], axis=0)
                maps = self.network(batch)
                content, style, found = ([one[n : n + 1] for one in maps] for n in range(3))
                loss = self._loss(variable, found, self._targets(content, style))
            else:
                loss = self._loss(variable, self.network(variable), self.targets)
        return float(loss), tape.gradient(loss, variable).numpy()[0]

    def ours(self, image: Array) -> tuple[float, Array]:
        """Loss and gradient as a job computes them."""
        losses, gradient = self.objective.evaluate(image)
        return losses.total, gradient

    def _targets(self, content: list[Any], style: list[Any]) -> tuple[list[Any], list[Any]]:
        return content[: self.split], [gram_matrix(one) for one in style[self.split :]]

    def _loss(self, image: Any, found: list[Any], targets: tuple[list[Any], list[Any]]) -> Any:
        maps, grams = targets
        content = [content_loss(*pair) for pair in zip(found, maps, strict=False)]
        ours = [gram_matrix(one) for one in found[self.split :]]
        style = [style_loss(*pair, "paper") for pair in zip(ours, grams, strict=True)]
        return (
            self.weights.content * tf.add_n(content) / len(content)
            + self.weights.style * tf.add_n(style) / len(style)
            + self.weights.total_variation * total_variation(image)
        )


class Bench:
    """The network, and pairs of images for it."""

    def __init__(self, settings: Settings) -> None:
        prepare_tensorflow(settings.job_threads)
        self.settings = settings
        self.weights = Weights.of(settings)
        self.name = available_network(self.weights)
        layers = LAYERS[self.name]
        self.network = FeatureNetwork.open(
            self.weights,
            self.name,
            [*layers.content, *layers.style],
            precision=fastest_precision(),
        )

    def images(self, number: int, side: int) -> tuple[Image.Image, Image.Image]:
        """A photo and a style, square: nine pairs."""
        photo = Image.open(self.settings.home / "samples" / f"{PHOTOS[number % 3]}.png")
        style = list(STYLES.values())[(number + number // 3) % 3](side)
        return photo.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), style

    def problem(self, number: int, side: int) -> Problem:
        """The losses of a pair."""
        photo, style = self.images(number, side)
        pair = np.asarray(photo, np.float32), np.asarray(style, np.float32)
        return Problem(self.network, self.name, pair)
