import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from models.explain.cam import Weigh, cam_function, grad_cam, hires_cam
from models.explain.head import head_of
from models.explain.layer_graph import LayerGraph
from models.networks.cnn import cnn
from tests.models import keras_warnings

pytestmark = keras_warnings.ignored


def explainer(model: keras.Model, layer: str, weigh: Weigh):
    graph = LayerGraph.of(model)
    explain = cam_function(graph, head_of(graph), layer, weigh)
    return lambda inputs, classes: explain(inputs, classes).grids


def by_hand(
    model: keras.Model, layer: str, inputs: np.ndarray, index: int
) -> tuple[np.ndarray, np.ndarray]:
    """Maps and the gradient of the logit there, by running what comes after the layer anew."""
    at = [item.name for item in model.layers].index(layer)
    maps = tf.Variable(keras.Model(model.inputs[0], model.layers[at].output)(inputs))
    with tf.GradientTape() as tape:
        x = maps
        for item in model.layers[at + 1 : -1]:
            x = item(x, training=False) if isinstance(item, layers.Dropout) else item(x)
        last = model.layers[-1]
        logit = (x @ last.kernel.value + last.bias.value)[:, index]
        total = tf.reduce_sum(logit)
    return maps.numpy(), tape.gradient(total, maps).numpy()


def scaled(grid: np.ndarray) -> np.ndarray:
    grid = np.maximum(grid, 0)
    return grid / grid.max(axis=(1, 2), keepdims=True)


@pytest.mark.parametrize("frozen", [False, True])
def test_grids_match_the_papers_formulas(frozen: bool) -> None:
    keras.utils.set_random_seed(8)
    model = cnn("cnn_pets", input_shape=(16, 16, 3), classes=3)
    model.trainable = not frozen
    inputs = np.random.default_rng(8).random((2, 16, 16, 3), np.float32)
    maps, gradient = by_hand(model, "conv4", inputs, 1)
    classes = tf.constant([1, 1])
    pooled = np.einsum("nhwk,nk->nhw", maps, gradient.mean(axis=(1, 2)))
    actual = explainer(model, "conv4", grad_cam)(tf.constant(inputs), classes)
    np.testing.assert_allclose(actual, scaled(pooled), atol=1e-4)
    actual = explainer(model, "conv4", hires_cam)(tf.constant(inputs), classes)
    np.testing.assert_allclose(actual, scaled((maps * gradient).mean(-1)), atol=1e-4)


def test_saturated_softmax_has_evidence() -> None:
    keras.utils.set_random_seed(8)
    model = cnn("cnn_pets", input_shape=(16, 16, 3), classes=2)
    last = model.get_layer("predictions")
    last.set_weights([last.kernel.numpy() * 1000, last.bias.numpy()])
    inputs = tf.constant(np.random.default_rng(8).random((1, 16, 16, 3), np.float32))
    top = int(np.argmax(model(inputs)))
    assert model(inputs)[0, top] == 1.0
    assert explainer(model, "conv4", grad_cam)(inputs, tf.constant([top])).numpy().max() == 1.0


def test_no_evidence_gives_zeros() -> None:
    model = cnn("cnn_pets", input_shape=(16, 16, 3), classes=2)
    model.get_layer("predictions").set_weights([np.zeros((512, 2)), np.zeros(2)])
    inputs = tf.constant(np.random.default_rng(8).random((1, 16, 16, 3), np.float32))
    assert not explainer(model, "conv4", grad_cam)(inputs, tf.constant([0])).numpy().any()


def test_negative_class_explains_the_most_probable_one() -> None:
    keras.utils.set_random_seed(8)
    model = cnn("cnn_pets", input_shape=(16, 16, 3), classes=3)
    graph = LayerGraph.of(model)
    explain = cam_function(graph, head_of(graph), "conv4", grad_cam)
    inputs = tf.constant(np.random.default_rng(8).random((3, 16, 16, 3), np.float32))
    probabilities = model(inputs).numpy()
    result = explain(inputs, tf.constant([-1, 2, 3]))
    top = int(probabilities[0].argmax())
    assert result.targets.numpy().tolist() == [top, 2, 3]
    expected = [probabilities[0, top], probabilities[1, 2], 0]
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-6)
    named = explain(inputs, tf.constant([top, 2, 3]))
    np.testing.assert_allclose(result.grids, named.grids, atol=1e-6)
    assert not result.grids.numpy()[2].any(), "there is no class 3"
