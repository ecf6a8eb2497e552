"""Winograd's convolutions against plain ones."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from models.create.edges import EdgeConv2D
from models.create.winograd import WinogradConv2D, with_winograd
from tests.models import keras_warnings

pytestmark = keras_warnings.ignored


def network(kind: type[layers.Conv2D] = layers.Conv2D) -> keras.Model:
    """A large convolution between two small ones."""
    keras.utils.set_random_seed(4)
    image = keras.Input((None, None, 3))
    x = kind(64, 3, padding="same", activation="relu")(image)
    x = kind(128, 3, padding="same", activation="relu", bias_initializer="ones")(x)
    return keras.Model(image, layers.Conv2D(8, 1)(x))


def gradient(model: keras.Model, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(image)
        maps = model(image)
        loss = tf.reduce_sum(tf.square(maps))
    return maps, tape.gradient(loss, image)


@pytest.mark.parametrize("kind", [layers.Conv2D, EdgeConv2D])
@pytest.mark.parametrize("size", [(1, 12, 16), (1, 13, 6), (2, 3, 15), (1, 1, 1)])
def test_maps_and_gradients_are_those_of_a_plain_network(
    size: tuple[int, int, int], kind: type[layers.Conv2D]
) -> None:
    plain = network(kind)
    fast = with_winograd(plain)
    kinds = [type(layer) is WinogradConv2D for layer in fast.layers]
    assert kinds == [False, False, True, False]
    image = tf.constant(np.random.default_rng(1).normal(size=(*size, 3)).astype(np.float32))
    for ours, expected in zip(gradient(fast, image), gradient(plain, image), strict=True):
        assert ours.shape == expected.shape
        largest = float(tf.reduce_max(tf.abs(expected)))
        np.testing.assert_allclose(ours, expected, atol=1e-4 * largest)


def test_an_edge_is_continued_and_no_frame() -> None:
    """Of an image of one color, all features are equal, and so are those of its edges."""
    layer = EdgeConv2D(5, 3, padding="same")
    maps = layer(tf.ones((1, 6, 7, 3))).numpy()
    np.testing.assert_allclose(maps, np.broadcast_to(maps[:, :1, :1], (1, 6, 7, 5)), atol=1e-5)
    weights = layer.get_weights()
    inside = layers.Conv2D(5, 3, padding="same")
    image = np.random.default_rng(2).normal(size=(1, 6, 7, 3)).astype(np.float32)
    inside(image)
    inside.set_weights(weights)
    ours, theirs = (one(image).numpy() for one in (layer, inside))
    np.testing.assert_allclose(ours[:, 1:-1, 1:-1], theirs[:, 1:-1, 1:-1], atol=1e-5)


def test_other_convolutions_stay_as_they_are() -> None:
    image = keras.Input((None, None, 128))
    options = [{"strides": 2}, {"padding": "valid"}, {"dilation_rate": 2}, {"groups": 2}]
    outputs = [layers.Conv2D(128, 3, **{"padding": "same"} | one)(image) for one in options]
    outputs.append(layers.Conv2D(128, 5, padding="same")(image))
    fast = with_winograd(keras.Model(image, outputs))
    assert not any(isinstance(layer, WinogradConv2D) for layer in fast.layers)
