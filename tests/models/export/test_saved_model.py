from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from models.explain.layers import read_layers
from models.export.parity import ParityError, median_difference, parity
from models.export.saved_model import export_version
from models.export.signatures import Blueprint, NoProbabilitiesError, signatures
from models.networks.cnn import cnn
from models.networks.keras_files import read_whole
from models.store.labels import Label
from tests.models import keras_warnings
from tests.models.builders import as_functional, as_nested, as_sequential

pytestmark = keras_warnings.ignored

BLUEPRINT = Blueprint("cnn_small", 16, "cover", "unit", "pool2", "conv2")
LABELS = [Label("a", "cat"), Label("b", "dog")]


def loaded(folder: Path) -> Any:
    return tf.saved_model.load(str(folder / "saved_model"))


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(8).integers(0, 256, (3, 16, 16, 3), np.uint8)


@pytest.fixture
def model() -> keras.Model:
    keras.utils.set_random_seed(8)
    return cnn("cnn_small", input_shape=(16, 16, 3), classes=2)


def test_graph_with_another_output_is_refused(
    model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    export_version(model, BLUEPRINT, tmp_path, images=images, labels=LABELS)
    endpoints = signatures(model, BLUEPRINT)
    assert max(parity(endpoints, loaded(tmp_path), images).largest_difference.values()) < 1e-4
    bias = model.get_layer("predictions").bias
    bias.assign(bias + np.array([0.01, 0], np.float32))
    with pytest.raises(ParityError, match="serve"):
        parity(endpoints, loaded(tmp_path), images)
    bias.assign(np.full(2, np.nan, np.float32))
    with pytest.raises(ParityError, match="nan"):
        parity(endpoints, loaded(tmp_path), images)


def test_one_deviating_map_is_ignored_and_two_are_not() -> None:
    expected = np.random.default_rng(2).random((3, 4, 4), np.float32)
    found = expected.copy()
    found[1] += 0.06
    assert median_difference(expected, found) == 0
    found[2] += 0.05
    assert median_difference(expected, found) == pytest.approx(0.05, abs=1e-6)
    found[2] = np.nan
    assert np.isnan(median_difference(expected, found))


@pytest.mark.parametrize("build", [as_functional, as_nested, as_sequential])
def test_network_is_exported_however_it_was_built(
    build: Callable[[layers.Dense], keras.Model], images: np.ndarray, tmp_path: Path
) -> None:
    keras.utils.set_random_seed(8)
    model = build(layers.Dense(2, activation="softmax", name="predictions"))
    draft = export_version(model, BLUEPRINT, tmp_path, images=images, labels=LABELS)
    assert draft.classes == 2
    names = [layer.name for layer in read_layers(tmp_path)]
    assert names == ["conv2", "pool2", "flatten", "predictions"]
    told = loaded(tmp_path).signatures["serve"](images=images)["probabilities"]
    np.testing.assert_allclose(told, model(images / 255), atol=1e-5)
    kept = read_whole(tmp_path / "model.keras")
    assert [layer.name for layer in kept.layers][-4:] == names, "flat, for whoever reads it"


def test_single_sigmoid_is_served_as_two_classes(images: np.ndarray, tmp_path: Path) -> None:
    keras.utils.set_random_seed(8)
    model = as_functional(layers.Dense(1, activation="sigmoid"))
    draft = export_version(model, BLUEPRINT, tmp_path, images=images, labels=LABELS)
    assert draft.classes == 2
    signatures = loaded(tmp_path).signatures
    second = model(images / 255).numpy()[:, 0]
    told = signatures["serve"](images=images)["probabilities"].numpy()
    np.testing.assert_allclose(told, np.stack([1 - second, second], axis=1), atol=1e-5)
    for index in (0, 1):
        classes = np.full(len(images), index, np.int32)
        explained = signatures["explain"](images=images, class_index=classes)
        np.testing.assert_allclose(explained["probability"], told[:, index], atol=1e-5)
        np.testing.assert_array_equal(explained["target"], classes)


def test_regression_is_refused(images: np.ndarray, tmp_path: Path) -> None:
    model = as_functional(layers.Dense(2))
    with pytest.raises(NoProbabilitiesError, match="neither a softmax nor a sigmoid"):
        export_version(model, BLUEPRINT, tmp_path, images=images, labels=LABELS)
    assert list(tmp_path.iterdir()) == []


def test_labels_and_images_are_required(
    model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="1 labels, 2 classes"):
        export_version(model, BLUEPRINT, tmp_path, images=images, labels=LABELS[:1])
    with pytest.raises(ValueError, match="0 images"):
        export_version(model, BLUEPRINT, tmp_path, images=images[:0], labels=LABELS)
    assert list(tmp_path.iterdir()) == []


def test_base_has_only_features(images: np.ndarray, tmp_path: Path) -> None:
    base = cnn("cnn_small", input_shape=(16, 16, 3), include_top=False)
    draft = export_version(base, BLUEPRINT, tmp_path, images=images)
    assert (draft.endpoints, draft.classes, draft.features) == (("features",), None, 64)
