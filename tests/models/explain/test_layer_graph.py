import keras
import numpy as np
import pytest
from keras import layers

from models.explain.cam import cam_function, hires_cam
from models.explain.head import head_of
from models.explain.layer_graph import LayerGraph, OpaqueModelError, layers_of
from tests.models import keras_warnings
from tests.models.explain.versions import tiny

pytestmark = keras_warnings.ignored

INPUTS = np.random.default_rng(8).random((2, 12, 12, 3)).astype(np.float32)


def block(kind: str) -> keras.Model:
    rows = [layers.Conv2D(4, 3, activation="relu", name="conv"), layers.MaxPooling2D(name="pool")]
    if kind == "sequential":
        return keras.Sequential([keras.Input((12, 12, 3)), *rows], name="inner")
    x = image = keras.Input((12, 12, 3))
    for row in rows:
        x = row(x)
    return keras.Model(image, x, name="inner")


def nested(kind: str) -> keras.Model:
    image = keras.Input((12, 12, 3))
    x = block(kind)(image)
    x = layers.Conv2D(5, 3, name="conv")(x)  # the inner one is called so, too
    x = layers.Flatten()(x)
    return keras.Model(image, layers.Dense(3, activation="softmax")(x))


@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_nested_network_is_flattened(kind: str) -> None:
    keras.utils.set_random_seed(8)
    model = nested(kind)
    names, weights = [layer.name for layer in model.layers], model.get_weights()
    graph = LayerGraph.of(model)
    assert list(graph.nodes)[:3] == ["conv", "pool", "conv_2"]
    np.testing.assert_array_equal(graph.model_to(graph.output)(INPUTS), model(INPUTS))
    inner = model.get_layer("inner")
    inside = keras.Model(inner.inputs[0], inner.get_layer("conv").output)
    np.testing.assert_array_equal(
        graph.model_to(graph.nodes["conv"].output)(INPUTS), inside(INPUTS)
    )
    explain = cam_function(graph, head_of(graph), "conv", hires_cam)
    result = explain(keras.ops.convert_to_tensor(INPUTS), np.array([0, 2], np.int32))
    assert result.grids.shape == (2, 10, 10)
    assert [layer.name for layer in model.layers] == names
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_sequential_and_functional_networks_give_equal_maps() -> None:
    keras.utils.set_random_seed(8)
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    image = x = keras.Input((12, 12, 3))
    for layer in model.layers:
        x = layer(x)
    classes = np.array([0, 2], np.int32)
    grids = []
    for one in (model, keras.Model(image, x)):
        graph = LayerGraph.of(one)
        explain = cam_function(graph, head_of(graph), "conv", hires_cam)
        grids.append(explain(keras.ops.convert_to_tensor(INPUTS), classes).grids.numpy())
    assert grids[0].any()
    np.testing.assert_array_equal(*grids)


class Opaque(keras.Model):
    def __init__(self) -> None:
        super().__init__(name="opaque")
        self.dense = layers.Dense(3)

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return self.dense(x)


def test_custom_model_class_is_refused() -> None:
    image = keras.Input((12, 12, 3))
    for model in (Opaque(), keras.Model(image, Opaque()(layers.Flatten()(image)))):
        with pytest.raises(OpaqueModelError, match=r"opaque is a Opaque, .* functional or"):
            LayerGraph.of(model)


def test_layers_are_listed_with_output_shapes() -> None:
    rows = {row.name: row for row in layers_of(LayerGraph.of(tiny()))}
    assert (rows["conv1"].type, rows["conv1"].output_shape) == ("Conv2D", [14, 14, 64])
    assert rows["conv1"].explainable
    assert not rows["predictions"].explainable
