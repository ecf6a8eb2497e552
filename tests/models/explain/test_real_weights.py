"""Grad-CAM and HiResCAM of real networks against NumPy alone, gradients included."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from models.explain.cam import cam_function, grad_cam, hires_cam
from models.explain.head import head_of
from models.explain.layer_graph import LayerGraph
from models.networks.loading import load_weights
from models.networks.preprocessing import preprocess
from models.networks.squeezenet import squeezenet
from models.networks.vgg import vgg
from tests.models import keras_warnings
from tests.models.export.test_catalog_import import photos_of

pytestmark = [keras_warnings.ignored, pytest.mark.shared]


def scaled(evidence: np.ndarray) -> np.ndarray:
    positive = np.maximum(evidence, 0)
    return positive / positive.max(axis=(1, 2), keepdims=True)


def compare(model: keras.Model, layer: str, inputs: tf.Tensor, classes, gradients) -> None:
    """Both methods against the formulas on the layer's maps and `gradients(maps)`."""
    graph = LayerGraph.of(model)
    maps = keras.Model(model.inputs[0], model.get_layer(layer).output)(inputs).numpy()
    slopes = gradients(maps)
    pooled = (slopes.mean(axis=(1, 2), keepdims=True) * maps).sum(axis=-1)
    for weigh, expected in ((grad_cam, pooled), (hires_cam, (slopes * maps).mean(axis=-1))):
        explain = cam_function(graph, head_of(graph), layer, weigh)
        actual = explain(inputs, tf.constant(classes)).grids.numpy()
        assert actual.any()
        np.testing.assert_allclose(actual, scaled(expected), atol=1e-4)


def test_squeezenet_matches_gradients_by_hand(shared: Path) -> None:
    model = squeezenet()
    load_weights(model, model.name, shared / "weights/squeezenet_weights_keras3.h5", "keras_h5")
    inputs = preprocess("caffe", photos_of(shared, (227, 227), 3))
    classes = model(inputs).numpy().argmax(axis=-1).astype(np.int32)
    kernel, bias = model.get_layer("conv10").get_weights()

    def gradients(maps: np.ndarray) -> np.ndarray:
        """Of mean(ReLU(maps @ kernel + bias)), the logit."""
        chosen = kernel[0, 0, :, classes]  # (n, channels)
        before = np.einsum("nhwk,nk->nhw", maps, chosen) + bias[classes][:, None, None]
        return (before > 0)[..., None] * chosen[:, None, None, :] / before[0].size

    compare(model, "fire9_concat", inputs, classes, gradients)


@pytest.mark.slow
def test_vgg16_matches_gradients_by_hand(shared: Path) -> None:
    base = vgg("vgg16", include_top=False)
    file = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    load_weights(base, base.name, shared / "weights" / file, "keras_h5")
    keras.utils.set_random_seed(8)
    pooled = layers.GlobalAveragePooling2D()(base.outputs[0])
    model = keras.Model(base.inputs[0], layers.Dense(5, activation="softmax", name="top")(pooled))
    inputs = preprocess("caffe", photos_of(shared, (224, 224), 3))
    classes = np.array([0, 4, 2], np.int32)
    kernel = model.get_layer("top").get_weights()[0]

    def gradients(maps: np.ndarray) -> np.ndarray:
        """Of mean(maxpool(maps)) @ kernel, the logit: the strongest of each 2 x 2 counts."""
        n, height, width, channels = maps.shape
        windows = maps.reshape(n, height // 2, 2, width // 2, 2, channels).transpose(
            0, 1, 3, 5, 2, 4
        )
        first = np.eye(4)[windows.reshape(*windows.shape[:4], 4).argmax(axis=-1)]
        strongest = first.reshape(windows.shape).transpose(0, 1, 4, 2, 5, 3).reshape(maps.shape)
        chosen = kernel[:, classes].T[:, None, None, :]
        return strongest * chosen / (height * width // 4)

    compare(model, "block5_conv3", inputs, classes, gradients)
