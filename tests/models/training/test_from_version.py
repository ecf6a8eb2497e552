"""Trainings that go on from a version, add classes to it, or start from weights by layer name."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from contracts.errors import NotTrainable, OpsinError, ValidationFailed
from contracts.inference.manifest import ParentRecord
from contracts.settings import Settings
from contracts.training.training_result import TrainingResult
from contracts.training.trainings import TrainingRequest
from models.datasets.store import DatasetStore
from models.networks.architecture import ARCHITECTURES
from models.networks.keras_files import read_whole, write_tutorial_weights
from models.networks.loading import read_arrays
from models.store.store import Store
from models.training import parent
from models.training.loop.assembly import assemble
from models.training.loop.initial import InitialWeights, read_initial_weights, start_from
from models.training.presets import training_request
from models.training.run import run
from models.weights.catalog import Weights
from tests.models import keras_warnings
from tests.models.drafts import DRAFT, write_files
from tests.models.training.in_memory_work import InMemoryWork

pytestmark = keras_warnings.ignored

COLORS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (200, 50, 40)}
STILL = {"scratch": 1e-9}
"""A learning rate at which nothing moves, so that what was taken over can be seen."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        folder = home / "pictures" / name
        folder.mkdir(parents=True)
        for number in range(12):
            pixels = np.clip(rng.normal(color, 40, (20, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    settings = Settings(home=home, decode_threads=1, offline=True)
    DatasetStore.of(settings).create("colors", home / "pictures", dataset_id="ds_colors")
    return settings


@pytest.fixture(scope="module")
def first(settings: Settings) -> TrainingResult:
    """Version 1: blue and red, gray levels centered, with a head."""
    return train(
        settings,
        network="cnn_small",
        image_size=[20, 16],
        classes=["blue", "red"],
        centering="standard",
        head={"units": [8], "pooling": "average"},
        epochs={"scratch": 2},
    )


def train(settings: Settings, **fields: Any) -> TrainingResult:
    job = f"job_{len(list((settings.home / 'work').glob('*')))}"
    folder = settings.home / "work" / job
    folder.mkdir(parents=True)
    request = requested(settings, **fields)
    work = InMemoryWork(job, request.as_job(), folder)
    return TrainingResult.model_validate(run(work, settings))


def requested(settings: Settings, **fields: Any) -> TrainingRequest:
    """What the service makes of a body."""
    body = {"dataset_id": "ds_colors", "model": "colors", "epochs": {"scratch": 1}} | fields
    return training_request(parent.complete(body, Store(settings.store_home)))


def weights_of(settings: Settings, version: int) -> dict[str, list[Any]]:
    path = Store(settings.store_home).path("colors", version) / "model.keras"
    return {layer.name: layer.get_weights() for layer in read_whole(path).layers if layer.weights}


def test_new_classes_get_new_outputs_and_old_ones_keep_theirs(
    settings: Settings, first: TrainingResult
) -> None:
    grown = train(settings, from_version="champion", learning_rate=STILL)
    assert grown.classes == ["blue", "green", "red"]
    spec = grown.provenance.spec or {}
    assert (spec["network"], spec["image_size"], spec["centering"]) == (
        *("cnn_small", [20, 16], "standard"),
    ), "inherited"
    record = Store(settings.store_home).manifest("colors", grown.version).provenance.parent
    assert record is not None
    assert (record.use, record.model, record.version) == ("from_version", "colors", first.version)
    assert (record.layers, record.new_classes) == (4, ("green",))

    before, after = (weights_of(settings, result.version) for result in (first, grown))
    outputs = before.pop("predictions"), after.pop("predictions")
    for old, new in zip(*outputs, strict=True):
        np.testing.assert_allclose(new[..., [0, 2]], old, atol=1e-6)
    for name, arrays in before.items():
        for old, new in zip(arrays, after[name], strict=True):
            np.testing.assert_allclose(new, old, atol=1e-6)
    again = read_initial_weights(
        requested(settings, from_version=grown.version),
        Store(settings.store_home),
        Weights.of(settings),
    )
    assert again is not None
    original = read_initial_weights(
        requested(settings, from_version=first.version),
        Store(settings.store_home),
        Weights.of(settings),
    )
    assert original is not None
    assert original.statistics is not None
    assert again.statistics == original.statistics, "the input stays the same"


def test_going_on_with_the_same_classes_changes_nothing_by_itself(
    settings: Settings, first: TrainingResult
) -> None:
    same = train(settings, from_version=first.version, classes=["red", "blue"], learning_rate=STILL)
    assert same.metrics["test"].loss == pytest.approx(first.metrics["test"].loss, abs=1e-4)
    assert same.confusion_matrix == first.confusion_matrix


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"network": "cnn_mnist"}, "network: version 1 of 'colors' has cnn_small"),
        ({"color_mode": "grayscale"}, "color_mode"),
        ({"centering": "none"}, "centering"),
        ({"resize": "squash"}, "resize"),
        ({"head": {"units": [9]}}, "head: version 1 of 'colors' has units (8,), not units (9,)"),
        ({"head": {"pooling": "flatten"}}, "head: version 1 of 'colors' has pooling average"),
        ({"classes": ["blue", "green"]}, ""),
        ({"classes": ["green", "purple"]}, "none of the dataset's classes"),
        ({"from_version": {"model": "untrained", "version": 1}}, "not trained here"),
        ({"from_version": {"model": "faces", "version": 1}}, "subjects"),
        ({"from_version": 99}, "99"),
        ({"from_version": {"model": "nonesuch", "version": 1}}, "nonesuch"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_queued(
    settings: Settings, first: TrainingResult, change: dict[str, Any], word: str
) -> None:
    store = Store(settings.store_home)
    subjects = {"dataset_id": None, "subjects": ["sub_a", "sub_b"], "network": "cnn_face"}
    spec = {"model": "faces"} | subjects
    for model, drafted in (
        ("untrained", DRAFT),
        ("faces", with_spec(spec)),
    ):
        if not store.versions(model):
            with store.staging() as folder:
                write_files(folder)
                store.publish(model, folder, drafted)

    def check() -> None:
        request = requested(settings, **({"from_version": first.version} | change))
        classes = request.classes or tuple(COLORS)
        parent.check_beginning(request, classes, store, Weights.of(settings))

    if not word:
        check()
        return
    with pytest.raises(OpsinError) as refused:
        check()
    assert word in refused.value.detail


def with_spec(spec: dict[str, Any]) -> Any:
    return DRAFT.model_copy(
        update={"provenance": DRAFT.provenance.model_copy(update={"spec": spec})}
    )


def test_classes_that_the_dataset_lacks_are_named(
    settings: Settings, first: TrainingResult
) -> None:
    request = requested(settings, from_version=first.version)
    store, weights = Store(settings.store_home), Weights.of(settings)
    with pytest.raises(ValidationFailed, match="no images of red"):
        parent.check_beginning(request, ["blue", "green"], store, weights)


def test_layers_are_loaded_by_name_and_others_stay_random(
    settings: Settings, first: TrainingResult
) -> None:
    started = train(
        settings,
        network="cnn_small",
        image_size=[20, 16],
        head={"units": [5], "pooling": "average"},
        initial_weights={"model": "colors", "version": first.version},
        learning_rate=STILL,
    )
    record = Store(settings.store_home).manifest("colors", started.version).provenance.parent
    assert record is not None
    assert (record.use, record.layers) == ("initial_weights", 2)
    assert record.skipped == ("head_fc1", "predictions")
    before, after = (weights_of(settings, result.version) for result in (first, started))
    for name in ("conv1", "conv2"):
        np.testing.assert_allclose(after[name][0], before[name][0], atol=1e-6)


def test_a_published_file_fits_by_layer_name(settings: Settings, tmp_path: Path) -> None:
    """VGG19's convolutions fit VGG19 with batch normalization; its top does not."""
    build = ARCHITECTURES["vgg19"].build
    keras.utils.set_random_seed(1)
    model = build(input_shape=(32, 32, 3), classes=2, include_top=False)
    path = tmp_path / "vgg19.h5"
    write_tutorial_weights(model, path)
    request = TrainingRequest(dataset_id="ds_colors", model="m", network="vgg19_bn")
    assembly = assemble(request, 2, Weights.of(settings))
    record = ParentRecord(use="initial_weights", layers=0)
    initial = InitialWeights(record, read_arrays("vgg19", path, "keras_h5"))
    started = start_from(assembly, "vgg19_bn", initial)
    assert started.parent is not None
    assert (started.parent.layers, started.parent.skipped) == (16, ())
    kernel = started.model.get_layer("block5_conv4").get_weights()[0]
    np.testing.assert_array_equal(kernel, model.get_layer("block5_conv4").get_weights()[0])


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"network": "vgg19_bn", "initial_weights": "vgg19_notop"}, "opsin weights pull"),
        ({"network": "cnn_small", "initial_weights": "vgg19"}, "do not fit"),
        ({"network": "vgg19_bn", "initial_weights": "vgg7"}, "no weights 'vgg7'"),
        (
            {"network": "vgg19", "initial_weights": "vgg19", "color_mode": "grayscale"},
            "three channels",
        ),
        ({"network": "cnn_pets", "initial_weights": {"model": "colors", "version": 1}}, "fit"),
    ],
)
def test_weights_that_cannot_be_loaded_are_refused(
    settings: Settings, first: TrainingResult, fields: dict[str, Any], word: str
) -> None:
    request = requested(settings, **fields)
    with pytest.raises(OpsinError, match=word):
        parent.check_beginning(
            request, ["a", "b"], Store(settings.store_home), Weights.of(settings)
        )


def test_versions_without_a_training_are_refused(settings: Settings) -> None:
    store = Store(settings.store_home)
    if not store.versions("plain"):
        with store.staging() as folder:
            write_files(folder)
            store.publish("plain", folder, DRAFT)
    with pytest.raises(NotTrainable, match="not trained here"):
        requested(settings, model="plain", from_version=1)
