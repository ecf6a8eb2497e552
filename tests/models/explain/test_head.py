import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from models.explain.cam import cam_function, grad_cam
from models.explain.head import head_of
from models.explain.layer_graph import LayerGraph
from tests.models import keras_warnings

pytestmark = keras_warnings.ignored

INPUTS = np.random.default_rng(8).random((4, 8, 8, 3)).astype(np.float32)


def network(*end: keras.Layer) -> keras.Model:
    keras.utils.set_random_seed(8)
    rows = [layers.Conv2D(6, 3, activation="relu", name="conv"), layers.GlobalAveragePooling2D()]
    return keras.Sequential([keras.Input((8, 8, 3)), *rows, *end])


def logits(model: keras.Model) -> tuple[np.ndarray, np.ndarray]:
    """What the head says of each class, and the network's output."""
    graph = LayerGraph.of(model)
    head = head_of(graph)
    before = graph.model_to(head.before)(INPUTS)
    scores = [head.scores(before, tf.fill((4,), index)) for index in range(head.classes)]
    return np.stack(scores, -1), model(INPUTS).numpy()


SOFTMAX = {
    "dense": (layers.Dense(3, activation="softmax"),),
    "softmax layer": (layers.Dense(3), layers.Softmax()),
    "activation layer": (layers.Dense(3), layers.Activation("softmax")),
    "no dense layer": (layers.Softmax(),),
    "reshaped after": (layers.Dense(3, activation="softmax"), layers.Reshape((3,))),
    "reshaped before": (layers.Dense(3), layers.Flatten(), layers.Softmax(), layers.Dropout(0.5)),
    "without bias": (layers.Dense(3, activation="softmax", use_bias=False),),
}


@pytest.mark.parametrize("end", SOFTMAX)
def test_softmax_of_the_logits_is_the_output(end: str) -> None:
    actual, output = logits(network(*SOFTMAX[end]))
    np.testing.assert_allclose(tf.nn.softmax(actual), output, atol=1e-6)
    assert not np.allclose(actual, output)


@pytest.mark.parametrize(
    "end",
    [[layers.Dense(1, activation="sigmoid")], [layers.Dense(1), layers.Activation("sigmoid")]],
)
def test_sigmoid_has_two_opposite_logits(end: list[keras.Layer]) -> None:
    model = network(*end)
    actual, output = logits(model)
    np.testing.assert_allclose(tf.sigmoid(actual[:, 1:]), output, atol=1e-6)
    np.testing.assert_array_equal(actual[:, 0], -actual[:, 1])
    graph = LayerGraph.of(model)
    head = head_of(graph)
    both = head.probabilities(output).numpy()
    np.testing.assert_allclose(both, np.concatenate([1 - output, output], -1))
    for_one, against = (
        cam_function(graph, head, "conv", grad_cam)(
            tf.constant(INPUTS), tf.fill((4,), index)
        ).grids.numpy()
        for index in (1, 0)
    )
    assert for_one.any() or against.any()
    assert not (for_one * against).any(), "no place speaks for a class and against it"


def test_several_sigmoids_are_separate_classes() -> None:
    actual, output = logits(network(layers.Dense(3, activation="sigmoid")))
    np.testing.assert_allclose(tf.sigmoid(actual), output, atol=1e-6)


@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
def test_score_of_a_regression_is_its_output(activation: str | None) -> None:
    actual, output = logits(network(layers.Dense(2, activation=activation)))
    np.testing.assert_allclose(actual, output, atol=1e-6)


def test_unknown_last_layer_is_refused() -> None:
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(2, 8, activation="softmax")(image)
    with pytest.raises(ValueError, match="Conv2D"):
        head_of(LayerGraph.of(keras.Model(image, layers.Flatten()(x))))
