"""One test over the whole table: shapes, parameter counts, publishing, reloading, explaining."""

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest

from models.catalog import Preprocessing
from models.export.saved_model import export_version
from models.export.signatures import Blueprint
from models.networks.architecture import ARCHITECTURES
from models.networks.preprocessing import preprocess
from models.serving.predictor import load_version
from models.store.labels import Label, read_labels
from models.store.store import Store
from tests.models import keras_warnings

pytestmark = keras_warnings.ignored


@dataclass(frozen=True)
class Case:
    """A small input of each network, and what it makes of it."""

    preprocessing: Preprocessing
    shape: tuple[int, int, int]
    explain_layer: str
    grid: tuple[int, int]
    features: int


CASES = {
    "efficientnet_lite0": Case("lite", (64, 64, 3), "head_activation", (2, 2), 1280),
    "squeezenet": Case("caffe", (67, 67, 3), "fire9_concat", (3, 3), 512),
    "vgg16": Case("caffe", (32, 40, 3), "block5_conv3", (2, 2), 512),
    "vgg19": Case("caffe", (40, 32, 3), "block5_conv4", (2, 2), 512),
    "vgg19_bn": Case("unit", (32, 32, 3), "block5_conv4_relu", (2, 2), 512),
    "cnn_mnist": Case("unit", (28, 28, 1), "conv2", (14, 14), 64),
    "cnn_small": Case("unit", (28, 28, 1), "conv2", (11, 11), 64),
    "cnn_pets": Case("unit", (48, 64, 3), "conv4", (24, 32), 64),
    "cnn_face": Case("unit", (44, 36, 3), "conv3", (4, 2), 128),
}

PUBLISHED = {
    "vgg16": ((224, 224, 3), 138_357_544),
    "vgg19": ((224, 224, 3), 143_667_240),
    "squeezenet": ((227, 227, 3), 1_235_496),
}


def test_every_architecture_is_tested() -> None:
    # It has no classes, and tests of its own.
    assert CASES.keys() | {"face_embedder"} == ARCHITECTURES.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_count_equals_the_published_one(name: str) -> None:
    shape, count = PUBLISHED[name]
    model = ARCHITECTURES[name].build(input_shape=shape, classes=1000, include_top=True)
    assert model.count_params() == count


@pytest.fixture
def pictures(request: pytest.FixtureRequest) -> np.ndarray:
    return np.random.default_rng(8).integers(0, 256, (3, 8, 8, 3), np.uint8)


def enlarged(pictures: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    height, width, _ = shape
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    return pictures[:, rows][:, :, columns]


SLOW = {"efficientnet_lite0", "vgg16", "vgg19", "vgg19_bn"}  # to trace or to write


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CASES],
)
def test_network_is_built_published_and_served(
    name: str, pictures: np.ndarray, tmp_path: Path
) -> None:
    case = CASES[name]
    images = enlarged(pictures, case.shape)
    keras.utils.set_random_seed(8)
    model = ARCHITECTURES[name].build(input_shape=case.shape, classes=5, include_top=True)
    assert model.output_shape == (None, 5)
    assert all(not isinstance(layer, keras.Model) for layer in model.layers), "must be flat"
    blueprint = Blueprint(
        name, 32, "cover", case.preprocessing, ARCHITECTURES[name].base_output, case.explain_layer
    )
    store = Store(tmp_path)
    labels = [Label(f"n{i}", f"kind {i}") for i in range(5)]
    with store.staging() as folder:
        draft = export_version(model, blueprint, folder, images=images, labels=labels)
        version = store.publish(name, folder, draft)
    assert (draft.features, draft.classes, draft.input_size) == (case.features, 5, case.shape[:2])
    assert read_labels(store.path(name, version)) == tuple(labels)

    loaded = load_version(store, name, version, max_batch_size=2)
    inputs = preprocess(case.preprocessing, images).numpy()
    if case.shape[2] == 1:
        inputs = inputs @ np.array([[0.299], [0.587], [0.114]], np.float32)
    np.testing.assert_allclose(loaded.run("classify", images), model(inputs), atol=1e-5)
    maps = keras.Model(model.inputs[0], model.get_layer(blueprint.base_output).output)(
        inputs
    ).numpy()
    expected = maps.mean(axis=(1, 2))
    found = loaded.run("embed", images)
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, abs(expected).max()))

    for hires in (False, True):
        grids = loaded.explain(images, np.array([0, 1, 4], np.int32), hires=hires).grids
        assert grids.shape == (3, *case.grid)
        assert set(grids.max(axis=(1, 2))) <= {0.0, 1.0}
        assert grids.min() >= 0
