import shutil
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from contracts.errors import NotTrainable
from contracts.inference.manifest import Draft, Served
from contracts.jobs import Progress
from contracts.settings import Settings
from contracts.work import WorkStoppedError
from models.datasets.dataset import Dataset, Example, Split
from models.datasets.store import DatasetStore
from models.export import quantization
from models.export.saved_model import export_version
from models.export.signatures import Blueprint
from models.serving.predictor import load_version
from models.serving.runtime import RuntimeOptions
from models.store.labels import Label
from models.store.store import Store
from models.training.promotion import HELD_OUT_ACCURACY
from tests.models import keras_warnings
from tests.models.drafts import DRAFT, write_files

pytestmark = [
    pytest.mark.slow,  # the import of NNCF alone takes ten seconds
    keras_warnings.ignored,
    # NNCF loads what it can find of SciPy, networkx and Torch, which warn of each other.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


class FakeWork:
    """A `contracts.work.Work` that is cancelled after `cancel_after` checks."""

    def __init__(self, request: dict[str, Any], folder: Path, cancel_after: int = 10**9) -> None:
        self.job_id, self.attempt, self.request, self.folder = "job_1", 1, request, folder
        self.phases: list[str] = []
        self._left = cancel_after

    def progress(self, progress: Progress) -> None:
        self.phases.append(progress.phase or "")

    def metrics(self, row: dict[str, Any]) -> None: ...

    def artifact(self, name: str, media_type: str, content: bytes) -> None: ...

    def check(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise WorkStoppedError


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, worker_threads=1)


@pytest.fixture
def store(settings: Settings) -> Store:
    return tones(settings)


def tones(settings: Settings, unused: float = 1.0) -> Store:
    """`tones` 1 distinguishes dark images from bright ones, with weights set manually.

    Args:
        unused: By how much the first of four channels is larger; the head ignores it, unless it is
            as large as the others.
    """
    keras.utils.set_random_seed(8)
    inputs = keras.Input((16, 16, 3))
    maps = keras.layers.Conv2D(4, 3, name="conv2", activation="relu", kernel_initializer="ones")(
        inputs
    )
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    outputs = keras.layers.Dense(2, "softmax", name="predictions")(pooled)
    model = keras.Model(inputs, outputs)
    kernel = np.array([[-0.1, 0.1]] * 4, np.float32) * [[0.9], [1.0], [1.1], [1.0]]
    if unused != 1:
        weights, bias = model.get_layer("conv2").get_weights()
        model.get_layer("conv2").set_weights([weights * [unused, 1, 1, 1], bias])
        kernel = np.array([[0, 0], *[[-0.133, 0.133]] * 3], np.float32)
    model.get_layer("predictions").set_weights([kernel, np.array([3.6, -3.6], np.float32)])
    store = Store(settings.store_home)
    with store.staging() as folder:
        draft = export_version(
            model,
            Blueprint("cnn_small", 16, "cover", "unit", "conv2", "conv2"),
            folder,
            images=np.random.default_rng(8).integers(0, 256, (3, 16, 16, 3), np.uint8),
            labels=[Label("dark", "dark"), Label("bright", "bright")],
        )
        measured = {HELD_OUT_ACCURACY: 0.91, "loss": 0.2}  # by the training
        draft = draft.model_copy(update={"metrics": measured})
        store.promote("tones", store.publish("tones", folder, draft))
    return store


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    random = np.random.default_rng(1)
    examples = []
    splits: list[Split] = ["train", "test"]
    for number in range(40):
        bright = number % 2
        pixels = (
            random.integers(150, 250, (20, 20, 3))
            if bright
            else random.integers(0, 100, (20, 20, 3))
        )
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        label = "Bright" if bright else "dark"
        examples.append(Example(path, label, splits[number // 20], f"{number:064d}"))
    dataset = Dataset("tones", "sha256:1", ("Bright", "dark"), tuple(examples))
    monkeypatch.setattr(DatasetStore, "load", lambda self, dataset_id: dataset)
    return dataset


REQUEST = {"model": "tones", "version": 1, "dataset_id": "ds_1", "max_accuracy_loss": 0.05}


def test_quantized_version_is_measured_published_once_and_promoted(
    settings: Settings, store: Store, dataset: Dataset, tmp_path: Path
) -> None:
    work = FakeWork(REQUEST, tmp_path)
    result = quantization.run(work, settings)
    assert result["accuracy"]["before"] == 1.0
    assert result["accuracy"]["after"] >= 0.95
    assert (result["version"], result["promoted"]) == (2, True)
    assert store.aliases("tones") == {"champion": 2}
    assert store.verify("tones", 2) == []
    manifest = store.manifest("tones", 2)
    assert (manifest.precision, manifest.provenance.quantized_from) == ("int8", 1)
    assert set(manifest.metrics) == {"accuracy_before", "accuracy"}, "none of the float32 version"
    served = manifest.served
    assert served is not None
    assert (served.runtime, served.split, served.pictures) == ("openvino-int8", "test", 20)
    assert served.accuracy == result["accuracy"]["after"]
    assert served.float32_accuracy == 1.0
    assert 0 < served.largest_difference < 0.7
    store.promote("tones", 1)
    again = quantization.run(FakeWork(REQUEST, tmp_path), settings)
    assert (again["version"], again["promoted"]) == (2, True)
    assert store.versions("tones") == [1, 2]
    assert store.aliases("tones") == {"champion": 1}, "a rollback stays"
    store.promote("tones", 2)
    loaded = load_version(
        store, "tones", max_batch_size=2, options=RuntimeOptions("openvino", "auto", 1)
    )
    assert loaded.runtime == "openvino-int8", loaded.runtime_reason
    dark_and_bright = np.stack([np.full((16, 16, 3), level, np.uint8) for level in (40, 220)])
    assert loaded.run("classify", dark_and_bright).argmax(axis=1).tolist() == [0, 1]


def test_a_champion_that_moves_at_the_same_moment_stays(
    settings: Settings, store: Store, dataset: Dataset, tmp_path: Path, monkeypatch: Any
) -> None:
    with store.staging() as folder:
        write_files(folder)
        other = store.publish("tones", folder, DRAFT)
    read = Store.aliases

    def moved(self: Store, model: str) -> dict[str, int]:
        aliases = read(self, model)
        self.promote(model, other)
        return aliases

    monkeypatch.setattr(Store, "aliases", moved)
    result = quantization.run(FakeWork(REQUEST | {"max_accuracy_loss": 1}, tmp_path), settings)
    assert result["promoted"] is False
    monkeypatch.undo()
    assert store.aliases("tones") == {"champion": other}


def test_workers_without_int8_report_what_they_serve_and_keep_what_was_rejected(
    store: Store, dataset: Dataset, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, worker_threads=1, precision="float32")
    manifest = store.manifest("tones", 1)
    rejected = Served(
        runtime="openvino-float32",
        split="test",
        pictures=20,
        accuracy=1,
        float32_accuracy=1,
        largest_difference=0,
        changed=0,
        rejected={"bfloat16": "a probability deviated by 0.2"},
    )
    draft = Draft.model_validate(manifest.model_dump() | {"served": rejected})
    with store.staging() as folder:
        ignored = shutil.ignore_patterns("manifest.json", "derived")
        shutil.copytree(store.path("tones", 1), folder, dirs_exist_ok=True, ignore=ignored)
        store.publish("tones", folder, draft)
    quantization.run(FakeWork(REQUEST | {"version": 2}, tmp_path), settings)
    served = store.manifest("tones", 3).served
    assert served is not None
    assert served.runtime == "openvino-float32"
    assert served.rejected == rejected.rejected
    assert served.largest_difference < 1e-3


def test_version_over_the_loss_limit_is_not_promoted(
    settings: Settings,
    store: Store,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accuracies = chain([1.0], repeat(0.5))
    monkeypatch.setattr(quantization, "_accuracy", lambda *_: next(accuracies))
    result = quantization.run(FakeWork(REQUEST, tmp_path), settings)
    assert (result["accuracy_loss"], result["promoted"]) == (0.5, False)
    assert store.aliases("tones") == {"champion": 1}


def test_cancelled_job_leaves_nothing(
    settings: Settings, store: Store, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(WorkStoppedError):
        quantization.run(FakeWork(REQUEST, tmp_path, cancel_after=25), settings)
    assert store.versions("tones") == [1]


def test_a_disk_without_room_for_a_copy_is_not_filled(
    settings: Settings, store: Store, dataset: Dataset, tmp_path: Path
) -> None:
    nearly_full = settings.model_copy(update={"min_free_disk_bytes": 10**18})
    with pytest.raises(OSError, match="No space left"):
        quantization.run(FakeWork(REQUEST, tmp_path), nearly_full)
    assert store.versions("tones") == [1]


def test_dataset_with_other_classes_is_refused(
    settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = Example(tmp_path / "none", "zebra", "test", "0" * 64)
    strange = Dataset("other", "sha256:2", ("zebra",), (example,))
    monkeypatch.setattr(DatasetStore, "load", lambda self, dataset_id: strange)
    with pytest.raises(NotTrainable, match="classes"):
        quantization.run(FakeWork(REQUEST, tmp_path), settings)


def test_layers_that_harm_the_accuracy_stay_in_float32(
    settings: Settings, dataset: Dataset, tmp_path: Path
) -> None:
    store = tones(settings, unused=1000)  # in steps for the largest channel, the others are zero
    work = FakeWork(REQUEST, tmp_path)
    result = quantization.run(work, settings)
    assert "control" in work.phases
    assert (result["accuracy"]["after"], result["promoted"]) == (1.0, True)
    assert store.verify("tones", 2) == []
    assert not list(store.path("tones", 2).glob("*_plain"))
    loaded = load_version(
        store, "tones", max_batch_size=2, options=RuntimeOptions("openvino", "auto", 1)
    )
    assert loaded.runtime == "openvino-int8", loaded.runtime_reason


@pytest.mark.parametrize(("seconds", "images"), [(0.0, 20), (900.0, 10**6)])
def test_control_without_time_or_images_of_its_own_keeps_the_better_version(
    settings: Settings,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    images: int,
) -> None:
    monkeypatch.setattr(quantization, "_CONTROL_SECONDS", seconds)
    monkeypatch.setattr(quantization, "_FEWEST_CONTROL_IMAGES", images)
    store = tones(settings, unused=1000)
    result = quantization.run(FakeWork(REQUEST, tmp_path), settings)
    assert result["promoted"] == (seconds > 0)
    assert result["accuracy"]["after"] == (1.0 if seconds else 0.5)
    assert store.versions("tones") == [1, 2]
