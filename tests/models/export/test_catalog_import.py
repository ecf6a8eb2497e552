"""Compares imported networks with the same networks in Keras, on real images."""

from pathlib import Path
from unittest.mock import MagicMock

import keras
import numpy as np
import pytest
from PIL import Image

from contracts.errors import VersionNotFound
from contracts.inference.inference import VectorOperation
from models.catalog import CATALOG, Network
from models.export.catalog_import import import_network
from models.export.catalog_weights import find_catalog_weights
from models.networks.architecture import ARCHITECTURES, build
from models.networks.loading import load_weights
from models.networks.preprocessing import preprocess
from models.serving.predictor import load_version
from models.store.labels import imagenet_labels
from models.store.store import Store
from models.weights.catalog import Weights, WeightsMissing
from tests.models import keras_warnings
from tests.models.drafts import DRAFT, write_files

pytestmark = [keras_warnings.ignored, pytest.mark.shared]


def photos_of(shared: Path, size: tuple[int, int], count: int) -> np.ndarray:
    files = sorted((shared / "data/imagenet-samples").glob("*.JPEG"))[:count]
    pictures = [Image.open(file).convert("RGB").resize(size[::-1]) for file in files]
    return np.stack([np.asarray(picture) for picture in pictures])


def keras_outputs(
    network: Network, weights: Weights, images: np.ndarray
) -> dict[VectorOperation, np.ndarray]:
    """The network's outputs by Keras; those of a base alone lack `classify`."""
    origin = find_catalog_weights(network, weights)
    model = build(network, include_top=origin.is_whole)
    load_weights(model, network.name, origin.file.path, origin.file.format)
    base = model.get_layer(ARCHITECTURES[network.name].base_output).output
    pooled = keras.Model(model.inputs, keras.layers.GlobalAveragePooling2D()(base))
    prepared = preprocess(network.preprocessing, images)
    outputs: dict[VectorOperation, np.ndarray] = {"embed": pooled(prepared).numpy()}
    if origin.is_whole:
        outputs["classify"] = model(prepared).numpy()
    return outputs


@pytest.mark.parametrize(
    "name", ["squeezenet", "vgg16", pytest.param("efficientnet_lite0", marks=pytest.mark.slow)]
)
def test_imported_network_gives_the_output_of_keras(
    name: str, shared: Path, fetched: Path, tmp_path: Path
) -> None:
    network, store = CATALOG[name], Store(tmp_path)
    weights = Weights(fetched / "weights", shared / "weights", offline=True)
    pictures = photos_of(shared, network.input_size, 3)
    try:
        assert import_network(network, weights, store, pictures) == 1
    except WeightsMissing as missing:
        pytest.skip(missing.detail)
    assert import_network(network, weights, store, pictures) == 1, "must not import twice"
    assert store.versions(name) == [1]
    assert store.resolve(name) == 1

    version = load_version(store, name, max_batch_size=2)
    expected = keras_outputs(network, weights, pictures)
    assert version.classes == (1000 if "classify" in expected else None)
    assert set(expected) < set(version.operations), "a version explains as well"
    version.warm()
    for operation, rows in expected.items():
        actual = version.run(operation, pictures)
        assert actual.shape == rows.shape
        np.testing.assert_allclose(actual, rows, atol=1e-4 * max(1, rows.max()))
        assert version.run(operation, pictures[:0]).shape == (0, rows.shape[1])
    if "classify" not in expected:
        with pytest.raises(VersionNotFound, match="cannot classify"):
            version.run("classify", pictures)
    manifest = store.manifest(name, 1)
    assert manifest.features == network.features
    assert manifest.provenance.weights is not None
    assert manifest.provenance.weights.licence == network.licence


@pytest.mark.slow
def test_other_weights_become_the_next_champion(shared: Path, tmp_path: Path) -> None:
    network, store = CATALOG["squeezenet"], Store(tmp_path / "store")
    pictures = photos_of(shared, network.input_size, 1)
    versions = []
    for file in ("squeezenet_v1.1_imagenet_fp16.npz", "squeezenet_weights_keras3.h5"):
        folder = tmp_path / file
        folder.mkdir()
        (folder / file).symlink_to(shared / "weights" / file)
        weights = Weights(tmp_path / "home", folder, offline=True)
        versions.append(import_network(network, weights, store, pictures))
        assert store.resolve("squeezenet") == versions[-1]
    assert versions == [1, 2]
    store.promote("squeezenet", 1)
    assert import_network(network, weights, store, pictures) == 2
    assert store.resolve("squeezenet") == 1, "a person's roll back stands"
    top = load_version(store, "squeezenet", 1, max_batch_size=1).run("classify", pictures)
    assert imagenet_labels()[int(top.argmax())].text == "goldfish"


@pytest.mark.parametrize("name", ["squeezenet", "vgg16"])
def test_missing_weights_are_refused_with_the_command_that_fetches_them(
    name: str, tmp_path: Path
) -> None:
    weights, store = Weights(tmp_path, None, True), Store(tmp_path / "store")
    with pytest.raises(WeightsMissing, match=f"opsin weights pull {name}"):
        import_network(CATALOG[name], weights, store, np.zeros((1, 224, 224, 3), np.uint8))


def test_a_champion_that_moves_at_the_same_moment_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)

    def publish(*_: object) -> int:
        with store.staging() as folder:
            write_files(folder)
            return store.publish("squeezenet", folder, DRAFT)

    def moved(*_: object) -> bool:
        store.promote("squeezenet", other)
        return True

    other = publish()
    module = "models.export.catalog_import"
    for name in ("find_catalog_weights", "build", "load_weights"):
        monkeypatch.setattr(f"{module}.{name}", MagicMock())
    monkeypatch.setattr(f"{module}.find_imported_version", lambda *_: None)
    monkeypatch.setattr(f"{module}._publish", publish)
    monkeypatch.setattr(f"{module}.may_replace", moved)
    weights, images = MagicMock(), np.zeros((1, 8, 8, 3), np.uint8)
    assert import_network(CATALOG["squeezenet"], weights, store, images) == 2
    assert store.aliases("squeezenet") == {"champion": other}


def test_an_import_that_was_killed_before_the_promotion_is_completed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    with store.staging() as folder:
        write_files(folder)
        version = store.publish("squeezenet", folder, DRAFT)
    module = "models.export.catalog_import"
    monkeypatch.setattr(f"{module}.find_catalog_weights", MagicMock())
    monkeypatch.setattr(f"{module}.find_imported_version", lambda *_: version)

    def imported() -> dict[str, int]:
        images = np.zeros((1, 8, 8, 3), np.uint8)
        assert import_network(CATALOG["squeezenet"], MagicMock(), store, images) == version
        return store.aliases("squeezenet")

    assert imported() == {"champion": version}
    store.drop_alias("squeezenet", "champion")
    assert imported() == {}, "the alias was deleted on purpose"
