from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest

from models.catalog import CATALOG, Network
from models.networks.architecture import ARCHITECTURES, build
from models.networks.efficientnet_lite import efficientnet_lite0
from models.networks.squeezenet import squeezenet
from models.networks.vgg import vgg

# From the papers and their published files; for Lite0 without the moving statistics.
PARAMETERS: dict[str, tuple[Callable[[], Any], int]] = {
    "vgg16": (partial(vgg, "vgg16"), 138_357_544),
    "vgg19": (partial(vgg, "vgg19"), 143_667_240),
    "squeezenet": (squeezenet, 1_235_496),
    "efficientnet_lite0": (efficientnet_lite0, 4_652_008),
}
# What has no classes has tests of its own: test_face_embedder.py.
CLASSIFIERS = [row for row in CATALOG.values() if row.classes]
ROWS = pytest.mark.parametrize("row", CLASSIFIERS, ids=lambda row: row.name)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count_equals_the_paper(name: str) -> None:
    make, count = PARAMETERS[name]
    # A model of zeros costs nothing to make; VGG's random start takes seconds.
    with keras.StatelessScope():
        model = make()
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert trainable == count


@ROWS
def test_every_network_is_built_flat_at_any_size_for_any_classes(row: Network) -> None:
    model = build(row, input_size=(96, 112), classes=7)
    assert model.inputs[0].shape == (None, 96, 112, 3)
    assert model.outputs[0].shape == (None, 7)
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)
    probabilities = model(np.zeros((2, 96, 112, 3), np.float32), training=False)
    np.testing.assert_allclose(np.sum(probabilities, axis=1), 1, atol=1e-5)


@ROWS
def test_layers_named_in_the_catalog_exist(row: Network) -> None:
    base = build(row, input_size=(96, 96), include_top=False)
    output = base.get_layer(ARCHITECTURES[row.name].base_output).output
    assert output is base.outputs[0]
    assert output.shape[-1] == row.features
    assert len(base.get_layer(row.explain_layer).output.shape) == 4


def test_layers_have_the_names_of_the_paper() -> None:
    names = {layer.name for layer in squeezenet().layers}
    assert {"conv1", "pool5", "fire2_squeeze1x1", "fire9_expand3x3", "fire9_concat"} <= names
    names = {layer.name for layer in vgg("vgg19", input_shape=(32, 32, 3), classes=2).layers}
    assert {"block5_conv4", "block5_pool", "fc1", "fc2", "predictions"} <= names


def test_squeezenet_pools_like_its_keras_port() -> None:
    model = squeezenet()
    sizes = {name: model.get_layer(name).output.shape[1] for name in ("pool1", "pool3", "pool5")}
    assert sizes == {"pool1": 56, "pool3": 27, "pool5": 13}


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
@pytest.mark.parametrize("size", [(32, 48), pytest.param(None, marks=pytest.mark.slow)])
def test_vgg_equals_that_of_keras(name: str, size: tuple[int, int] | None) -> None:
    """The same random weights give the same answers: the base at a small size, and all at 224."""
    theirs_of = {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}[name]
    shape = (*(size or (224, 224)), 3)
    theirs = theirs_of(weights=None, include_top=size is None, input_shape=shape)
    ours = vgg(name, include_top=size is None, input_shape=shape)
    ours.set_weights(theirs.get_weights())
    images = np.random.default_rng(8).uniform(-120, 130, (2, *shape)).astype(np.float32)
    expected = np.asarray(theirs(images, training=False))
    np.testing.assert_allclose(
        np.asarray(ours(images, training=False)), expected, rtol=1e-4, atol=1e-6
    )
    assert [w.name for w in ours.layers if w.weights] == [
        w.name for w in theirs.layers if w.weights
    ]


def test_vgg_with_batch_norm_normalizes_every_convolution() -> None:
    model = vgg("vgg19", input_shape=(32, 32, 3), classes=2, include_top=False, batch_norm=True)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 16
    assert model.get_layer("block1_conv1").activation is keras.activations.linear
