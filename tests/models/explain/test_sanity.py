import keras
import numpy as np
import pytest
from keras import layers

from models.explain.sanity import rank_correlation
from models.export.signatures import Blueprint
from models.store.manifest import read_manifest
from tests.models import keras_warnings
from tests.models.explain.versions import published, tiny

pytestmark = keras_warnings.ignored

IMAGE_AVERAGE = Blueprint("cnn_small", 16, "cover", "unit", "maps", "maps")


def test_rank_correlation_is_spearmans() -> None:
    grid = np.array([[0.1, 0.5], [0.3, 0.9]], np.float32)
    assert rank_correlation(grid, grid**3) == pytest.approx(1)
    assert rank_correlation(grid, -grid) == pytest.approx(-1)
    assert rank_correlation(grid, np.zeros_like(grid)) == 0
    # Ranks 1 4 2.5 2.5 and 1 2 3 4: by hand, 3.5 / sqrt(4.5 * 5) less the mean's share.
    other = np.array([[0, 3], [1, 1]], np.float32)
    a, b = np.array([1, 4, 2.5, 2.5]), np.array([1, 3, 2, 4])
    expected = np.corrcoef(a, b)[0, 1]
    assert rank_correlation(other, grid) == pytest.approx(expected)


def test_check_is_in_the_manifest_and_leaves_the_network_unchanged(tmp_path) -> None:
    model = tiny()
    before = model.get_weights()
    sanity = read_manifest(published(tmp_path, model)).sanity
    assert sanity is not None
    assert (sanity.method, sanity.layer, sanity.pictures) == ("grad_cam", "conv2", 2)
    assert list(sanity.rank_correlation)[-1] == "conv1"
    assert all(-1 <= value <= 1 for value in sanity.rank_correlation.values())
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    files = read_manifest(published(tmp_path / "again", model))
    assert files.sanity == sanity, "seeded"


def test_maps_independent_of_the_weights_fail(tmp_path) -> None:
    x = image = keras.Input((16, 16, 3))
    x = layers.AveragePooling2D(2, name="maps")(x)  # of the picture alone
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(2, activation="softmax")(x))
    model.layers[-1].set_weights([np.ones((3, 2)), np.zeros(2)])
    sanity = read_manifest(published(tmp_path, model, blueprint=IMAGE_AVERAGE)).sanity
    assert sanity is not None
    assert list(sanity.rank_correlation.values())[-1] == pytest.approx(1)
    assert not sanity.passed


def test_every_layer_with_weights_is_randomised(tmp_path) -> None:
    x = image = keras.Input((16, 16, 3))
    for number in range(3):
        x = layers.Conv2D(4, 3, name=f"conv{number}")(x)
        x = layers.BatchNormalization(name=f"norm{number}")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(2, activation="softmax", name="head")(x))
    blueprint = Blueprint("cnn_small", 16, "cover", "unit", "norm2", "norm2")
    sanity = read_manifest(published(tmp_path, model, blueprint=blueprint)).sanity
    assert sanity is not None
    names = ["head", "norm2", "conv2", "norm1", "conv1", "norm0", "conv0"]
    assert list(sanity.rank_correlation) == names
