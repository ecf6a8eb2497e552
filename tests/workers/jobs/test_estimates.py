"""The memory that each kind of job is expected to need."""

import io
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contracts.create.requests import CONTENT_FILE, IMAGE_FILE, style_file
from contracts.errors import DatasetNotFound, ValidationFailed
from contracts.settings import MIB, Settings
from contracts.training.datasets import DatasetInfo, Listing
from database.datasets import DatasetRows
from database.engine import open_engine
from models.create.memory import style_bytes, tiled_bytes
from models.memory.ledger import SMALL_BYTES
from models.store.store import Store
from models.training.memory import estimate, images_of
from models.training.presets import training_request
from tests.tables import make_tables
from workers.jobs.handlers import KINDS, MEMORY, load_estimate


@dataclass
class Work:
    request: dict[str, Any]
    folder: Path
    job_id: str = "job_1"
    attempt: int = 1
    rows: list[Any] = field(default_factory=list)

    def progress(self, progress: Any) -> None: ...

    def metrics(self, row: dict[str, Any]) -> None: ...

    def artifact(self, name: str, media_type: str, content: bytes) -> None: ...

    def check(self) -> None: ...


def write(folder: Path, name: str, width: int, height: int) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(file, "JPEG")
    (folder / name).write_bytes(file.getvalue())


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, home=tmp_path, training_memory_mb=64 * 1024)


def needed(kind: str, request: dict[str, Any], settings: Settings) -> int:
    return load_estimate(kind)(Work(request, settings.home), settings)


def test_every_kind_has_an_estimate() -> None:
    assert MEMORY.keys() == KINDS.keys()
    for kind in KINDS:
        assert callable(load_estimate(kind))


def test_a_dream_counts_at_the_size_that_it_is_made_in(settings: Settings) -> None:
    write(settings.home, IMAGE_FILE, 3000, 1500)
    request = {"model": "vgg16"}
    assert needed("dream", request, settings) == tiled_bytes((1024, 512), 384)
    large = needed("dream", request | {"size": 4096, "tile_size": 1024}, settings)
    assert large == tiled_bytes((4096, 2048), 1024)
    small = settings.model_copy(update={"training_memory_mb": 3000})
    with pytest.raises(ValidationFailed, match="Send size="):
        needed("dream", request | {"size": 8192}, small)


def test_a_dream_of_a_class_counts_with_the_input_of_its_version(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(settings.home, IMAGE_FILE, 640, 480)
    manifest = SimpleNamespace(input_size=(1024, 512))
    monkeypatch.setattr(Store, "manifest", lambda *_: manifest)
    request = {"model": "shapes", "version": "2", "tile_size": 64}
    assert needed("dream", request, settings) == tiled_bytes((640, 480), 64)
    of_class = needed("dream", request | {"class_index": 1}, settings)
    assert of_class == tiled_bytes((640, 480), 64, 1024 * 512) > tiled_bytes((640, 480), 64)


@pytest.mark.parametrize("size", [None, 640])
def test_a_style_transfer_counts_with_its_styles(
    settings: Settings, size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.jobs.estimates.available_network", lambda *_: "vgg16")
    write(settings.home, CONTENT_FILE, 1000, 100)
    write(settings.home, style_file(0), 500, 500)
    write(settings.home, style_file(1), 100, 4000)
    request = {"styles": 2} | ({"size": size} if size else {})
    result = (640, 64) if size else (512, 51)
    expected = style_bytes(result, "vgg16", [(500, 500), (100, 4000)])
    assert needed("style_transfer", request, settings) == expected
    fast = needed("style_transfer", request | {"method": "fast"}, settings)
    assert fast == tiled_bytes(result if size else (1000, 100))


@pytest.fixture
def dataset(settings: Settings) -> None:
    """`ds_1` in the database: 9 images for training in three classes, and 6 others."""
    make_tables(settings.database)
    info = DatasetInfo(
        id="ds_1", name="small", digest="d", classes={"a": 5, "b": 5, "c": 5},
        splits={"train": 9, "validation": 4, "test": 2}, trainable=True, warnings=[], rejected=[],
        created_at=datetime.now(UTC),
    )  # fmt: skip
    engine = open_engine(settings.database)
    DatasetRows(engine, lambda: datetime.now(UTC)).put(
        Listing(info=info, validation=0.2, test=0.2, files=[])
    )
    engine.dispose()


def test_a_training_counts_with_its_classes(settings: Settings) -> None:
    people = training_request({"model": "m", "network": "face_cnn", "subjects": ["sub_1", "sub_2"]})
    assert needed("training", people.as_job(), settings) == estimate(people, 2).total


@pytest.mark.usefixtures("dataset")
def test_a_training_counts_with_the_images_of_its_dataset(settings: Settings) -> None:
    fields = {"model": "m", "network": "vgg16", "strategy": "fine_tuning", "dataset_id": "ds_1"}
    request = training_request(fields | {"batch_size": 640})
    counts = {"train": 9, "validation": 4, "test": 2}
    expected = estimate(request, 3, counts).total
    assert needed("training", request.as_job(), settings) == expected
    assert expected < estimate(request, 3).total / 10
    two = training_request(fields | {"batch_size": 640, "classes": ["a", "b"]})
    assert needed("training", two.as_job(), settings) == estimate(two, 2, counts).total
    one = training_request(fields | {"classes": ["a", "none"]})
    assert images_of(one, info(settings)) == {"train": 5, "validation": 4, "test": 2}
    small = settings.model_copy(update={"training_memory_mb": 1500})
    with pytest.raises(ValidationFailed, match="batch_size"):
        needed("training", request.as_job(), small)
    lost = training_request(fields | {"dataset_id": "ds_2"})
    with pytest.raises(DatasetNotFound):
        needed("training", lost.as_job(), settings)


def info(settings: Settings) -> DatasetInfo:
    engine = open_engine(settings.database)
    try:
        return DatasetRows(engine, lambda: datetime.now(UTC)).get("ds_1")
    finally:
        engine.dispose()


@pytest.mark.usefixtures("dataset")
def test_a_sweep_counts_as_its_largest_training(settings: Settings) -> None:
    fields = {
        "model": "m", "network": "squeezenet", "dataset_id": "ds_1", "classes": ["a", "b"],
        "strategy": "fine_tuning",
    }  # fmt: skip
    requests = [training_request(fields | {"batch_size": size}) for size in (2, 640, 4)]
    trainings = [{"values": {}, "request": request.as_job()} for request in requests]
    sweep = {
        "dataset_id": "ds_1", "model": "m", "combinations": 3, "metric": "accuracy",
        "trainings": trainings,
    }  # fmt: skip
    counts = {"train": 9, "validation": 4, "test": 2}
    expected = max(estimate(one, 2, counts).total for one in requests)
    assert needed("sweep", sweep, settings) == expected < 2e9


@pytest.mark.usefixtures("dataset")
def test_an_evaluation_counts_with_what_the_versions_answer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "resolve", lambda _self, _model, version: version)
    monkeypatch.setattr(Store, "manifest", lambda *_: SimpleNamespace(classes=1_000_000))
    request = {"dataset_id": "ds_1", "model": "m", "version": 2}
    rest = needed("heatmap", {}, settings)
    one = needed("evaluation", request, settings) - rest
    assert one >= 15 * 1_000_000 * 4
    assert needed("evaluation", request | {"against": 1}, settings) == rest + 2 * one


def test_what_loads_a_network_counts_and_an_enrollment_does_not_wait(settings: Settings) -> None:
    for kind in ("heatmap", "activations", "filters", "quantize"):
        assert needed(kind, {}, settings) > 1024 * MIB
    for kind in ("dataset_import", "dataset_video", "calibration", "face_detection"):
        assert 0.42e9 < needed(kind, {}, settings) < 1.1e9
    # All of them are small, unless images may be larger.
    assert needed("heatmap", {}, settings) <= SMALL_BYTES
    larger = settings.model_copy(update={"max_image_pixels": 178_000_000})
    for kind in ("heatmap", "dataset_import"):
        assert needed(kind, {}, larger) > 16 * 178_000_000
    assert needed("enrollment", {}, settings) == 0
