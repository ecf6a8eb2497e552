"""The published weights through the store, on real pictures, against the network run by Keras."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.catalog import CATALOG
from models.export.catalog_import import import_zoo
from models.predictor import load_predictor
from models.serving.predictor import load_version
from models.store.labels import imagenet_labels
from models.store.store import Store
from models.weights.catalog import Weights, WeightsMissing
from tests.models import keras_warnings

pytestmark = [keras_warnings.ignored, pytest.mark.shared]


def photographs(shared: Path, size: tuple[int, int], count: int) -> np.ndarray:
    files = sorted((shared / "data/imagenet-samples").glob("*.JPEG"))[:count]
    pictures = [Image.open(file).convert("RGB").resize(size[::-1]) for file in files]
    return np.stack([np.asarray(picture) for picture in pictures])


@pytest.mark.parametrize(
    "name", ["squeezenet", "vgg16", pytest.param("efficientnet_lite0", marks=pytest.mark.slow)]
)
def test_a_zoo_network_is_served_from_the_store_as_keras_runs_it(
    name: str, shared: Path, fetched: Path, tmp_path: Path
) -> None:
    network, store = CATALOG[name], Store(tmp_path)
    weights = Weights(fetched / "weights", shared / "weights", offline=True)
    pictures = photographs(shared, network.input_size, 3)
    try:
        assert import_zoo(network, weights, store, pictures) == 1
    except WeightsMissing as missing:
        pytest.skip(missing.detail)
    assert import_zoo(network, weights, store, pictures) == 1, "must not import twice"
    assert store.versions(name) == [1]
    assert store.resolve(name) == 1

    kept = load_version(store, name, max_batch_size=2)
    built = load_predictor(network, weights, threads=2, max_batch_size=2)
    assert kept.classes == built.classes
    assert set(built.operations) < set(kept.operations), "a version explains as well"
    kept.warm()
    for operation in built.operations:
        expected = built.run(operation, pictures)
        found = kept.run(operation, pictures)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-4 * max(1, expected.max()))
        assert kept.run(operation, pictures[:0]).shape == (0, expected.shape[1])
    manifest = store.manifest(name, 1)
    assert manifest.features == network.features
    assert manifest.provenance.weights is not None
    assert manifest.provenance.weights.licence == network.licence


@pytest.mark.slow
def test_other_weights_become_the_next_champion(shared: Path, tmp_path: Path) -> None:
    network, store = CATALOG["squeezenet"], Store(tmp_path / "store")
    pictures = photographs(shared, network.input_size, 1)
    versions = []
    for file in ("squeezenet_v1.1_imagenet_fp16.npz", "squeezenet_weights_keras3.h5"):
        folder = tmp_path / file
        folder.mkdir()
        (folder / file).symlink_to(shared / "weights" / file)
        weights = Weights(tmp_path / "home", folder, offline=True)
        versions.append(import_zoo(network, weights, store, pictures))
        assert store.resolve("squeezenet") == versions[-1]
    assert versions == [1, 2]
    store.promote("squeezenet", 1)
    assert import_zoo(network, weights, store, pictures) == 2
    assert store.resolve("squeezenet") == 1, "a person's roll back stands"
    top = load_version(store, "squeezenet", 1, max_batch_size=1).run("classify", pictures)
    assert imagenet_labels()[int(top.argmax())].text == "goldfish"
