import numpy as np
import pytest
from keras.applications import imagenet_utils

from models.networks.preprocessing import preprocess

IMAGES = np.random.default_rng(8).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)


def test_caffe_equals_that_of_keras() -> None:
    expected = imagenet_utils.preprocess_input(IMAGES.astype(np.float32), mode="caffe")
    np.testing.assert_allclose(preprocess("caffe", IMAGES), expected, atol=1e-4)


def test_lite_ranges_from_minus_one_to_one() -> None:
    values = np.asarray(preprocess("lite", np.array([[[[0, 127, 255]]]], np.uint8)))
    assert values.dtype == np.float32
    assert values.ravel() == pytest.approx([-127 / 128, 0, 1])
