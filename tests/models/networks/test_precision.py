from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras import layers

from models.networks.precision import with_precision
from tests.models import keras_warnings

pytestmark = keras_warnings.ignored

PICTURES = np.random.default_rng(8).random((4, 12, 12, 3)).astype(np.float32)


def adapted() -> keras.Model:
    """The statistics of a normalization layer are not among its arguments."""
    normalization = layers.Normalization()
    normalization.adapt(PICTURES * 3 + 5)
    image = keras.Input((12, 12, 3))
    return keras.Model(image, layers.Conv2D(5, 3)(normalization(image)))


def with_operators() -> keras.Model:
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(4, 3)(image)
    return keras.Model(image, keras.ops.relu(x * 2 + x))


def with_statistics() -> keras.Model:
    image = keras.Input((12, 12, 3))
    x = layers.BatchNormalization()(layers.DepthwiseConv2D(3)(layers.Rescaling(2.0)(image)))
    return keras.Model(image, layers.ReLU(6.0)(x))


@pytest.mark.parametrize("make", [adapted, with_operators, with_statistics])
def test_bfloat16_copy_gives_almost_the_same_output(make: Callable[[], keras.Model]) -> None:
    model = make()
    copy = with_precision(model, "bfloat16")
    expected, found = (np.asarray(one(PICTURES), np.float32) for one in (model, copy))
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)
    assert (found != expected).any(), "it was computed otherwise"
    assert {weight.dtype for weight in copy.weights} <= {"float32", "int64", "int32"}


def test_float32_returns_the_network_itself() -> None:
    model = adapted()
    assert with_precision(model, "float32") is model
