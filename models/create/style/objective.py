"""The sum of losses that a style transfer minimizes, and its gradient, in one compiled function.

What does not depend on the result is computed once: the maps of the content and the Gram matrices
of the styles. Several styles are one target, the weighted mean of their Gram matrices, because the
weighted sum of squared differences has the same gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contracts.create.requests import Normalization
from models.create.features import FeatureNetwork
from models.create.style.losses import (
    content_loss,
    gram_matrix,
    style_loss,
    total_variation,
)

Array = npt.NDArray[np.float32]
Tensor = Any
COMPILED_PIXELS = 1_500_000
"""From so many evaluated pixels on, faster convolutions save more than compiling them takes."""
_IMAGE = tf.TensorSpec((1, None, None, 3), tf.float32)


@dataclass(frozen=True, slots=True)
class Losses:
    """The losses of one evaluation, each with its weight."""

    total: float
    content: float
    style: float
    total_variation: float


@dataclass(frozen=True, slots=True)
class LossWeights:
    """The factor of each loss, and how Gram matrices are normalized."""

    content: float
    style: float
    total_variation: float
    normalization: Normalization = "paper"


class Objective:
    """The losses of an image against fixed targets.

    Args:
        network: Its layers begin with the content layers; the others are style layers.
        content_layers: How many of its layers are content layers.
    """

    def __init__(self, network: FeatureNetwork, content_layers: int, weights: LossWeights) -> None:
        self._network = network
        self._split = content_layers
        self._weights = weights
        channels = network.channels()
        maps = [tf.TensorSpec((1, None, None, n), tf.float32) for n in channels[:content_layers]]
        grams = [tf.TensorSpec((n, n), tf.float32) for n in channels[content_layers:]]
        signature = [_IMAGE, maps, grams]
        self._plain, self._compiled = (
            tf.function(partial(self._loss_and_gradient, repeated=one), input_signature=signature)
            for one in (False, True)
        )
        self._evaluate = self._plain
        self._content = tf.function(self._content_maps, input_signature=[_IMAGE])
        self._style = tf.function(self._style_grams, input_signature=[_IMAGE])
        self._targets: tuple[list[Tensor], list[Tensor]] | None = None

    def set_targets(
        self,
        content: Array,
        styles: Sequence[Array],
        shares: Sequence[float],
        evaluations: int = 1,
    ) -> None:
        """Compute the targets.

        Args:
            content: float32 (height, width, 3), levels of 0 to 255, of the result's size.
            styles: Likewise, each of any size.
            shares: Of each style; their sum is 1.
            evaluations: How many will follow, which says whether it pays to compile for the size.
        """
        pays = content.shape[0] * content.shape[1] * evaluations >= COMPILED_PIXELS
        if pays:
            self._network.prepare_repeated()
        self._evaluate = self._compiled if pays else self._plain
        maps = self._content(content[np.newaxis])
        grams: list[Tensor] | None = None
        for style, share in zip(styles, shares, strict=True):
            parts = [share * gram for gram in self._style(style[np.newaxis])]
            grams = parts if grams is None else [a + b for a, b in zip(grams, parts, strict=True)]
        self._targets = (maps, grams or [])

    def evaluate(self, image: Array) -> tuple[Losses, Array]:
        """The losses of an image and the gradient of their sum.

        Args:
            image: float32 (height, width, 3), of the content's size.
        """
        assert self._targets is not None  # noqa: S101  set_targets comes first
        values, gradient = self._evaluate(tf.constant(image[np.newaxis]), *self._targets)
        total, content, style, variation = (float(value) for value in values.numpy())
        return Losses(total, content, style, variation), gradient.numpy()[0]

    def _loss_and_gradient(
        self, image: Tensor, maps: list[Tensor], grams: list[Tensor], *, repeated: bool
    ) -> tuple[Tensor, Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(image)
            found = self._network(image, repeated=repeated)
            content = self._mean([content_loss(*pair) for pair in zip(found, maps, strict=False)])
            ours = [gram_matrix(one) for one in found[self._split :]]
            style = self._mean(
                [
                    style_loss(*pair, self._weights.normalization)
                    for pair in zip(ours, grams, strict=True)
                ]
            )
            content *= self._weights.content
            style *= self._weights.style
            variation = self._weights.total_variation * total_variation(image)
            total = content + style + variation
        return tf.stack([total, content, style, variation]), tape.gradient(total, image)

    @staticmethod
    def _mean(losses: list[Tensor]) -> Tensor:
        return tf.add_n(losses) / len(losses)

    def _content_maps(self, image: Tensor) -> list[Tensor]:
        return self._network(image)[: self._split]

    def _style_grams(self, image: Tensor) -> list[Tensor]:
        return [gram_matrix(one) for one in self._network(image)[self._split :]]
