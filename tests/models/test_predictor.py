import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.catalog import CATALOG, Network
from models.networks.architecture import build
from models.networks.loading import load_weights
from models.networks.preprocessing import preprocess
from models.predictor import Predictor, load_predictor
from models.store.labels import imagenet_labels
from models.weights.catalog import WeightFile, Weights, WeightsMissing

LITE = CATALOG["efficientnet_lite0"]


def cropped(path: Path, row: Network) -> Any:
    """Short side resized (antialiased), centre cropped: what the accuracies are measured with."""
    with Image.open(path) as image:
        scale = row.short_side / min(image.size)
        size = tuple(round(side * scale) for side in image.size)
        resized = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    height, width = row.input_size
    left, top = (resized.width - width) // 2, (resized.height - height) // 2
    return np.asarray(resized.crop((left, top, left + width, top + height)))


def noise(count: int, row: Network = LITE) -> Any:
    shape = (count, *row.input_size, 3)
    return np.random.default_rng(count).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def lite(fetched_weights: Weights) -> Predictor:
    return load_predictor(LITE, fetched_weights, threads=2, max_batch_size=6)


def test_it_says_what_it_is(lite: Predictor) -> None:
    assert (lite.version, lite.classes, lite.runtime) == (1, 1000, "tensorflow-float32")
    assert lite.operations == ("classify", "embed")
    assert lite.partial_reason is None
    assert lite.batch_sizes == (1, 2, 4, 6)


def test_a_cat_is_a_cat(lite: Predictor, photos: Path) -> None:
    images = np.stack([cropped(photos / f"{name}.png", LITE) for name in ("cat", "coffee")])
    probabilities = lite.run("classify", images)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    cat, coffee = (imagenet_labels()[i].text for i in probabilities.argmax(axis=1))
    assert cat in {"tabby", "tiger cat", "Egyptian cat"}
    assert coffee in {"espresso", "cup", "coffee mug"}


def test_it_answers_as_the_network_does(lite: Predictor, lite_file: WeightFile) -> None:
    model = build(LITE)
    load_weights(model, LITE.name, lite_file.path, lite_file.format)
    images = noise(3)
    expected = model(preprocess("lite", images), training=False)
    np.testing.assert_allclose(lite.run("classify", images), expected, atol=1e-5)
    # The classifier is a dense layer over the pooled features, so one gives the other.
    kernel, bias = model.get_layer("predictions").get_weights()
    logits = lite.run("embed", images) @ kernel + bias
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), expected, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 3, 5, 6, 7, 13])
def test_a_picture_is_answered_alike_in_any_company(lite: Predictor, count: int) -> None:
    images = noise(13)[:count]
    together = lite.run("embed", images)
    assert together.shape == (count, 1280)
    for i in {0, count - 1} - {-1} if count else ():
        np.testing.assert_allclose(lite.run("embed", images[i : i + 1])[0], together[i], atol=1e-4)


def test_a_hundred_mixed_calls_trace_no_more(lite: Predictor) -> None:
    lite.warm()
    traced = lite.traces
    assert traced <= len(lite.batch_sizes) * len(lite.operations)
    random = np.random.default_rng(8)
    for _ in range(100):
        operation = lite.operations[random.integers(2)]
        lite.run(operation, noise(int(random.integers(1, 4))))
    assert lite.traces == traced


def test_other_pictures_are_refused(lite: Predictor) -> None:
    for wrong in (noise(1)[:, :100], noise(1).astype(np.float32), noise(1)[0]):
        with pytest.raises(ValueError, match="takes uint8 pictures"):
            lite.run("classify", wrong)


def test_nothing_there_says_what_helps(tmp_path: Path) -> None:
    for name in ("squeezenet", "vgg16"):
        with pytest.raises(WeightsMissing, match=f"opsin weights pull {name}"):
            load_predictor(
                CATALOG[name], Weights(tmp_path, None, True), threads=2, max_batch_size=2
            )


@pytest.mark.shared
def test_a_base_alone_embeds_and_says_why_no_more(shared: Path, tmp_path: Path) -> None:
    weights = Weights(tmp_path, shared / "weights", True)
    predictor = load_predictor(CATALOG["vgg16"], weights, threads=2, max_batch_size=1)
    assert predictor.operations == ("embed",)
    assert predictor.classes is None
    assert "opsin weights pull vgg16" in (predictor.partial_reason or "")
    images = noise(1, CATALOG["vgg16"])
    features = predictor.run("embed", images)
    assert features.shape == (1, 512)
    assert features.min() >= 0
    assert features.std() > 0.1
    with pytest.raises(WeightsMissing, match="opsin weights pull vgg16"):
        predictor.run("classify", images)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "top1", "top5"), [("efficientnet_lite0", 0.85, 0.95), ("squeezenet", 0.62, 0.84)]
)
def test_accuracy_on_real_pictures(
    fetched: Path, lite_file: WeightFile, shared: Path, name: str, top1: float, top5: float
) -> None:
    """Measured: EfficientNet-Lite0 87 / 98 %, SqueezeNet 65 / 87 % of the 100 pictures."""
    row = CATALOG[name]
    folder = shared / "data" / "imagenet-samples"
    with (folder / "labels.csv").open() as file:
        labels = {line["file"]: int(line["class_index"]) for line in csv.DictReader(file)}
    weights = Weights(fetched / "weights", shared / "weights", True)
    predictor = load_predictor(row, weights, threads=2, max_batch_size=16)
    images = np.stack([cropped(folder / picture, row) for picture in labels])
    best = np.argsort(-predictor.run("classify", images), axis=1)
    truth = np.array(list(labels.values()))
    assert (best[:, 0] == truth).mean() >= top1
    assert (best[:, :5] == truth[:, None]).any(axis=1).mean() >= top5
