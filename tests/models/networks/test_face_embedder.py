from pathlib import Path

import keras
import numpy as np
import pytest

from models.catalog import CATALOG
from models.export.catalog_import import import_network
from models.networks.architecture import build
from models.networks.loading import load_weights
from models.networks.preprocessing import preprocess
from models.networks.tfjs import manifest_of, read_tfjs
from models.serving.predictor import VersionPredictor, load_version
from models.store.store import Store
from models.weights.catalog import WeightFile, Weights, WeightsMissing
from tests.models import keras_warnings
from tests.models.faces.images import read
from tests.models.networks.face_embedder_numpy import embed, tensors_of

pytestmark = keras_warnings.ignored

ROW = CATALOG["face_embedder"]


@pytest.fixture(scope="module")
def weights(fetched: Path) -> Weights:
    return Weights(fetched / "weights", None, True)


@pytest.fixture(scope="module")
def file(weights: Weights) -> WeightFile:
    try:
        return weights.find(ROW.weights)
    except WeightsMissing as missing:
        pytest.skip(missing.detail)


@pytest.fixture(scope="module")
def chips(shared: Path) -> np.ndarray:
    """The middles of five photographs of five people, cut close to what the embedder is given."""
    folders = sorted((shared / "data/caltech-faces").iterdir())[:5]
    pictures = [read(min(folder.glob("*.jpg"))) for folder in folders]
    return np.stack([picture[40:190, 40:190] for picture in pictures])


@pytest.fixture(scope="module")
def served(
    weights: Weights, file: WeightFile, chips: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> VersionPredictor:
    """The embedder as a worker has it: imported into a store and read from there."""
    del file
    store = Store(tmp_path_factory.mktemp("store"))
    assert import_network(ROW, weights, store, chips) == 1
    return load_version(store, ROW.name, max_batch_size=4)


def test_network_is_flat_with_the_published_parameter_count(file: WeightFile) -> None:
    model = build(ROW)
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)
    assert model.output_shape == (None, 128)
    tensors = read_tfjs(file.path)
    # A convolution's bias and the two numbers of its scale are one number once they are folded.
    folded = sum(a.size for name, a in tensors.items() if "/scale/" in name)
    assert model.count_params() == sum(a.size for a in tensors.values()) - folded


def test_map_sizes_equal_the_published_ones() -> None:
    model = build(ROW)
    names = ("conv32_down", "pool1", "conv64_down", "conv128_down", "conv256_down")
    sizes = [model.get_layer(name).output.shape[1] for name in (*names, "conv256_down_out")]
    assert sizes == [72, 35, 17, 8, 4, 2]


@pytest.mark.shared
def test_embeddings_equal_those_of_a_numpy_implementation(
    served: VersionPredictor, file: WeightFile, chips: np.ndarray
) -> None:
    """The port, exported and read again, against a forward pass that knows no framework."""
    tensors = tensors_of(file.path, manifest_of(file.path))
    expected = np.stack([embed(tensors, chip) for chip in chips])
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    assert (lengths > 1).all()
    found = served.run("embed", chips)
    np.testing.assert_allclose(found, expected / lengths, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.abs(found @ found.T - np.eye(5)).max() < 0.98, "five people are not one"


@pytest.mark.shared
def test_version_embeds_and_only_analyses_faces(served: VersionPredictor) -> None:
    assert served.operations == ("embed", "faces", "clip")
    assert served.classes is None
    assert served.manifest.features == 128
    assert served.manifest.endpoints == ("features",)
    assert served.run("embed", np.zeros((0, 150, 150, 3), np.uint8)).shape == (0, 128)


def test_base_pools_its_maps(tmp_path: Path) -> None:
    """Fine-tuning begins with the maps: they are there, with the same names."""
    base = build(ROW, include_top=False)
    whole = build(ROW)
    names = [layer.name for layer in whole.layers if layer.weights]
    assert [layer.name for layer in base.layers if layer.weights] == names[:-1]
    assert base.output_shape == (None, 2, 2, 256)


def test_damaged_file_is_refused(file: WeightFile, tmp_path: Path) -> None:
    for raw, message in (
        (file.path.read_bytes()[:-1], "ends before"),
        (b"x", "ends before"),
    ):
        (tmp_path / file.path.name).write_bytes(raw)
        manifest = manifest_of(tmp_path / file.path.name)
        manifest.write_bytes(manifest_of(file.path).read_bytes())
        with pytest.raises(ValueError, match=message):
            load_weights(build(ROW), ROW.name, tmp_path / file.path.name, "tfjs")
    (tmp_path / file.path.name).write_bytes(file.path.read_bytes() + b"x")
    with pytest.raises(ValueError, match="longer than"):
        read_tfjs(tmp_path / file.path.name)


def test_preprocessing_subtracts_the_means_of_faces() -> None:
    gray = np.full((1, 2, 2, 3), 122, np.uint8)
    found = preprocess("face", gray).numpy()[0, 0, 0]
    np.testing.assert_allclose(
        found, (122 - np.array([122.782, 117.001, 104.298])) / 255, atol=1e-6
    )
