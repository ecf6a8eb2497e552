from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.exporting import export_version
from models.labels import Label
from models.networks.cnn import cnn
from models.parity import ParityError, parity
from models.signatures import Blueprint, signatures
from tests.models import keras_warnings

pytestmark = keras_warnings.ignored

BLUEPRINT = Blueprint("cnn_small", 16, "unit", "pool2", "conv2")
LABELS = [Label("a", "cat"), Label("b", "dog")]


def loaded(folder: Path) -> Any:
    return tf.saved_model.load(str(folder / "saved_model"))


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(8).integers(0, 256, (3, 16, 16, 3), np.uint8)


@pytest.fixture
def model() -> keras.Model:
    keras.utils.set_random_seed(8)
    return cnn("cnn_small", input_shape=(16, 16, 3), classes=2)


def test_a_graph_that_strays_is_refused(
    model: keras.Model, pictures: np.ndarray, tmp_path: Path
) -> None:
    export_version(model, BLUEPRINT, tmp_path, pictures=pictures, labels=LABELS)
    endpoints = signatures(model, BLUEPRINT)
    assert max(parity(endpoints, loaded(tmp_path), pictures).largest_difference.values()) < 1e-4
    bias = model.get_layer("predictions").bias
    bias.assign(bias + np.array([0.01, 0], np.float32))
    with pytest.raises(ParityError, match="serve"):
        parity(endpoints, loaded(tmp_path), pictures)
    bias.assign(np.full(2, np.nan, np.float32))
    with pytest.raises(ParityError, match="nan"):
        parity(endpoints, loaded(tmp_path), pictures)


def test_labels_and_pictures_must_be_there(
    model: keras.Model, pictures: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="1 labels, 2 classes"):
        export_version(model, BLUEPRINT, tmp_path, pictures=pictures, labels=LABELS[:1])
    with pytest.raises(ValueError, match="0 pictures"):
        export_version(model, BLUEPRINT, tmp_path, pictures=pictures[:0], labels=LABELS)
    assert list(tmp_path.iterdir()) == []


def test_a_base_alone_has_features_only(pictures: np.ndarray, tmp_path: Path) -> None:
    base = cnn("cnn_small", input_shape=(16, 16, 3), include_top=False)
    draft = export_version(base, BLUEPRINT, tmp_path, pictures=pictures)
    assert (draft.endpoints, draft.classes, draft.features) == (("features",), None, 64)
