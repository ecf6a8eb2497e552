"""A version answers as the network that was trained: the same image, decoded twice, to 1e-4.

What the training says of its test images comes from its own pipeline and its own graph; what the
version says goes through a request's decoder, the exported graph and the runtime that serves.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contracts.settings import Settings
from models.datasets.store import DatasetStore
from models.serving.predictor import VersionPredictor
from models.serving.runtime import RuntimeOptions
from models.store.store import Store
from models.training import run as training
from models.training.exported import decode_examples
from models.training.presets import PRESETS, training_request
from models.training.trained import TrainedModel
from tests.models import keras_warnings
from tests.models.training.in_memory_work import InMemoryWork

pytestmark = keras_warnings.ignored

COLORS = {"blue": (70, 80, 150), "red": (150, 80, 70)}
SIZES = ((90, 60), (60, 90), (64, 64), (200, 40))
"""Width and height: portraits, landscapes, squares, and one that is mostly cut off."""
VARIANTS: dict[str, dict[str, Any]] = {
    "gray, centered, not square": {
        "color_mode": "grayscale", "centering": "standard", "image_size": [40, 24],
    },
    "squashed, independent": {
        "resize": "squash",
        "centering": "mean",
        "image_size": [24, 40],
        "head": {"pooling": "flatten", "units": [8], "output": "independent"},
    },
}  # fmt: skip

CALMER: dict[str, dict[str, Any]] = {
    "cifar10_vgg19_bn": {"learning_rate": {"scratch": 1e-3}},
    "cifar10_vgg19_bn_tuned": {"learning_rate": {"scratch": 1e-3}},
    "cats_dogs_frozen": {"learning_rate": {"head": 1e-6}},
    "cats_dogs_finetuned": {"learning_rate": {"finetune": 1e-6}},
}
"""With their own rates these networks say the same of every image after a single epoch."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Settings:
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("validation", 3), ("test", 8)):
        for name, color in COLORS.items():
            folder = home / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                _image(color, SIZES[number % len(SIZES)], rng).save(folder / f"{number}.png")
    weights = shared / "weights"
    settings = Settings(_env_file=None, home=home, weights_dir=weights, precision="float32")
    DatasetStore.of(settings).create("colors", home / "images", dataset_id="ds_colors")
    return settings


def _image(color: tuple[int, ...], size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Coarse noise, so that another part or another scale of it is another image."""
    width, height = size
    pixels = np.clip(rng.normal(color, 60, (height // 5, width // 5, 3)), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.shared
@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_answers_as_it_was_trained(
    variant: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"network": "cnn_small", "epochs": {"scratch": 2}} | VARIANTS[variant]
    _compare(variant.partition(",")[0], fields, settings, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.shared
@pytest.mark.parametrize("preset", PRESETS)
def test_preset_answers_as_it_was_trained(
    preset: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = {phase: min(n, 1) for phase, n in PRESETS[preset].request.get("epochs", {}).items()}
    fields = {"preset": preset, "epochs": epochs} | CALMER.get(preset, {})
    _compare(preset, fields, settings, monkeypatch)


def _compare(
    model: str, fields: dict[str, Any], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[TrainedModel] = []
    train = training.train

    def remembered(*args: Any, **kwargs: Any) -> TrainedModel:
        made.append(train(*args, **kwargs))
        return made[0]

    monkeypatch.setattr(training, "train", remembered)
    small = {"batch_size": 4, "mixed_precision": "off", "promote": "never"}
    request = training_request({"dataset_id": "ds_colors", "model": model} | fields | small)
    folder = settings.home / "work" / model
    folder.mkdir(parents=True)
    training.run(InMemoryWork(f"job_{model}", request.as_job(), folder), settings)
    evaluation = made[0].evaluations["test"]
    version = Store(settings.store_home).path(model, 1)
    predictor = VersionPredictor(version, max_batch_size=4, options=RuntimeOptions.of(settings))
    pixels = decode_examples(evaluation.examples, predictor.manifest, max_pixels=10**6)
    answers = predictor.run("classify", pixels)
    assert len(answers) == 16
    np.testing.assert_allclose(answers, evaluation.probabilities, rtol=0, atol=1e-4)
    # Nothing was compared if the network says the same of every image.
    assert np.ptp(evaluation.probabilities, axis=0).max() > 1e-3
