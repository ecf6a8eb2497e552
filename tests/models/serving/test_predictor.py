"""`VersionPredictor` on a published network: as accurate as published, the same in every batch."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.catalog import CATALOG, Network
from models.export.catalog_import import import_network
from models.networks.architecture import build
from models.networks.loading import load_weights
from models.networks.preprocessing import preprocess
from models.serving.predictor import VersionPredictor, load_version
from models.store.labels import imagenet_labels
from models.store.store import Store
from models.weights.catalog import WeightFile, Weights
from tests.models import keras_warnings

pytestmark = keras_warnings.ignored

LITE = CATALOG["efficientnet_lite0"]
PHOTOS = ("cat", "coffee", "astronaut")


def cropped(path: Path, network: Network) -> Any:
    """Short side resized (antialiased), center cropped, as for the published accuracies."""
    with Image.open(path) as image:
        scale = network.short_side / min(image.size)
        size = tuple(round(side * scale) for side in image.size)
        resized = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    height, width = network.input_size
    left, top = (resized.width - width) // 2, (resized.height - height) // 2
    return np.asarray(resized.crop((left, top, left + width, top + height)))


def noise(count: int) -> Any:
    shape = (count, *LITE.input_size, 3)
    return np.random.default_rng(count).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("home") / "store")


def imported(
    store: Store, network: Network, weights: Weights, photos: Path, max_batch_size: int
) -> VersionPredictor:
    images = np.stack([cropped(photos / f"{name}.png", network) for name in PHOTOS])
    version = import_network(network, weights, store, images)
    return load_version(store, network.name, version, max_batch_size=max_batch_size)


@pytest.fixture(scope="module")
def lite(store: Store, fetched_weights: Weights, photos: Path) -> VersionPredictor:
    return imported(store, LITE, fetched_weights, photos, 6)


def test_attributes_of_a_classifier(lite: VersionPredictor) -> None:
    assert (lite.version, lite.classes, lite.runtime) == (1, 1000, "tensorflow-float32")
    assert lite.operations == ("classify", "embed", "heatmap", "explain", "study")
    assert lite.runtime_reason is None
    assert lite.batch_sizes == (1, 2, 4, 6)


def test_photos_get_their_labels(lite: VersionPredictor, photos: Path) -> None:
    images = np.stack([cropped(photos / f"{name}.png", LITE) for name in ("cat", "coffee")])
    probabilities = lite.run("classify", images)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    cat, coffee = (lite.labels[index].text for index in probabilities.argmax(axis=1))
    assert lite.labels == imagenet_labels()
    assert cat in {"tabby", "tiger cat", "Egyptian cat"}
    assert coffee in {"espresso", "cup", "coffee mug"}


def test_outputs_equal_those_of_the_keras_network(
    lite: VersionPredictor, lite_file: WeightFile
) -> None:
    model = build(LITE)
    load_weights(model, LITE.name, lite_file.path, lite_file.format)
    images = noise(3)
    expected = model(preprocess("lite", images), training=False)
    np.testing.assert_allclose(lite.run("classify", images), expected, atol=1e-5)
    # The classifier is a dense layer on the pooled features, so one gives the other.
    kernel, bias = model.get_layer("predictions").get_weights()
    logits = lite.run("embed", images) @ kernel + bias
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), expected, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 3, 5, 6, 7, 13])
def test_output_does_not_depend_on_the_batch(lite: VersionPredictor, count: int) -> None:
    images = noise(13)[:count]
    together = lite.run("embed", images)
    assert together.shape == (count, 1280)
    for i in {0, count - 1} - {-1} if count else ():
        np.testing.assert_allclose(lite.run("embed", images[i : i + 1])[0], together[i], atol=1e-4)


def test_warming_up_leaves_the_outputs_unchanged(lite: VersionPredictor) -> None:
    images = noise(5)
    before = lite.run("classify", images)
    lite.warm(0.5)
    assert set(lite.batch_sizes) <= {1, 2, 4, 6}
    np.testing.assert_allclose(lite.run("classify", images), before, atol=1e-5)


def test_images_of_other_shapes_are_refused(lite: VersionPredictor) -> None:
    for wrong in (noise(1)[:, :100], noise(1).astype(np.float32), noise(1)[0]):
        with pytest.raises(ValueError, match="takes uint8 images"):
            lite.run("classify", wrong)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "top1", "top5"), [("efficientnet_lite0", 0.85, 0.95), ("squeezenet", 0.62, 0.84)]
)
def test_accuracy_on_real_images(
    store: Store,
    fetched: Path,
    lite_file: WeightFile,
    shared: Path,
    photos: Path,
    name: str,
    top1: float,
    top5: float,
) -> None:
    """Measured: EfficientNet-Lite0 87 / 98%, SqueezeNet 65 / 87% of the 100 images."""
    network = CATALOG[name]
    folder = shared / "data" / "imagenet-samples"
    with (folder / "labels.csv").open() as file:
        labels = {line["file"]: int(line["class_index"]) for line in csv.DictReader(file)}
    weights = Weights(fetched / "weights", shared / "weights", True)
    predictor = imported(store, network, weights, photos, 16)
    images = np.stack([cropped(folder / file, network) for file in labels])
    best = np.argsort(-predictor.run("classify", images), axis=1)
    truth = np.array(list(labels.values()))
    assert (best[:, 0] == truth).mean() >= top1
    assert (best[:, :5] == truth[:, None]).any(axis=1).mean() >= top5
