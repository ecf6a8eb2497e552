"""The loop of TensorFlow's tutorial "Neural style transfer", with its own losses and weights.

https://www.tensorflow.org/tutorials/generative/style_transfer: maxima where the network has them,
Gram matrices over positions, Adam on an image of 0 to 1 that begins as the content.
"""

import time
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from contracts.create.requests import StyleNetwork
from models.create.features import FeatureNetwork
from models.create.style.losses import gram_matrix
from models.weights.catalog import Weights

_CONTENT = "block5_conv2"
_STYLE = tuple(f"block{block}_conv1" for block in range(1, 6))
_CONTENT_WEIGHT, _STYLE_WEIGHT, _VARIATION_WEIGHT = 1e4, 1e-2, 30


class Tutorial:
    """The tutorial's `StyleContentModel` and `train_step`, for VGG16 or VGG19."""

    def __init__(self, weights: Weights, network: StyleNetwork) -> None:
        self._network = FeatureNetwork.open(weights, network, [_CONTENT, *_STYLE], pooling="max")

    def painted(
        self, content: Image.Image, style: Image.Image, seconds: float
    ) -> tuple[Image.Image, int]:
        """The image after that time of the processor, and its steps; loading is not counted."""
        began = time.process_time()
        start = tf.constant(np.asarray(content, np.float32)[np.newaxis] / 255)
        target, _ = self._maps(start)
        _, grams = self._maps(tf.constant(np.asarray(style, np.float32)[np.newaxis] / 255))
        image = tf.Variable(start)
        adam = tf.keras.optimizers.Adam(learning_rate=0.02, beta_1=0.99, epsilon=1e-1)

        @tf.function  # type: ignore[untyped-decorator]
        def train_step() -> None:
            with tf.GradientTape() as tape:
                found, ours = self._maps(image)
                pairs = zip(ours, grams, strict=True)
                styles = [tf.reduce_mean((a - b) ** 2) for a, b in pairs]
                loss = _STYLE_WEIGHT * tf.add_n(styles) / len(styles)
                loss += _CONTENT_WEIGHT * tf.reduce_mean((found - target) ** 2)
                loss += _VARIATION_WEIGHT * tf.reduce_sum(tf.image.total_variation(image))
            adam.apply_gradients([(tape.gradient(loss, image), image)])
            image.assign(tf.clip_by_value(image, 0.0, 1.0))

        count = 0
        while time.process_time() - began < seconds:
            train_step()
            count += 1
        pixels = (image.numpy()[0] * 255).astype(np.uint8)
        return Image.fromarray(pixels), count

    def _maps(self, image: Any) -> tuple[Any, list[Any]]:
        content, *style = self._network(image * 255)
        return content, [gram_matrix(one) for one in style]
