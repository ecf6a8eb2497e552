"""What a job needs may be deleted before its turn: one attempt says so, for every kind."""

from pathlib import Path
from typing import Any

import pytest

from contracts.errors import OpsinError
from contracts.jobs import WORK_QUEUES, JobKind
from contracts.settings import Settings
from models.datasets.store import DatasetStore
from models.store.store import Store
from tests.models import keras_warnings
from tests.models.datasets.packing import tree, zipped
from tests.models.drafts import DRAFT, write_files
from tests.models.training.in_memory_work import InMemoryWork
from tests.tables import make_tables
from workers.jobs.child import _client_error
from workers.jobs.handlers import load_handler

pytestmark = keras_warnings.ignored

TRAINING = {"dataset_id": "ds_pets", "model": "new", "network": "squeezenet"}
QUANTIZE = {"model": "pets", "version": 1, "dataset_id": "ds_pets"}
SUBJECTS = {"subjects": ["sub_a", "sub_b"], "model": "new", "network": "cnn_face"}
SWEEP = {
    "dataset_id": "ds_gone",
    "model": "new",
    "combinations": 1,
    "metric": "accuracy",
    "trainings": [{"values": {}, "request": TRAINING | {"dataset_id": "ds_gone"}}],
}
HEATMAP = {
    "model": "pets",
    "version": 1,
    "question": {"method": "occlusion"},
    "classes": [0],
    "resize": "crop",
    "look": {"shown": "overlay", "colormap": "jet", "alpha": 0.5, "legend": False},
    "names": ["a.png"],
}
ACTIVATIONS = {
    "model": "pets",
    "version": 7,
    "question": {"channels": 4, "order": "strongest"},
    "colormap": "jet",
}
MISSING: list[tuple[JobKind, dict[str, Any], str, str]] = [
    ("training", TRAINING, "model_not_ready", "squeezenet"),  # its weights
    ("training", TRAINING | {"dataset_id": "ds_gone"}, "dataset_not_found", "dataset"),
    ("training", SUBJECTS, "model_not_ready", "face"),  # the embedder, which crops the frames
    ("sweep", SWEEP, "not_trainable", "dataset"),
    ("quantize", QUANTIZE | {"model": "gone"}, "model_not_found", "gone"),
    ("quantize", QUANTIZE | {"version": 7}, "version_not_found", "7"),
    ("quantize", QUANTIZE | {"dataset_id": "ds_gone"}, "dataset_not_found", "dataset"),
    ("evaluation", QUANTIZE | {"model": "gone"}, "model_not_found", "gone"),
    ("evaluation", QUANTIZE | {"version": 7}, "version_not_found", "7"),
    ("evaluation", QUANTIZE | {"dataset_id": "ds_gone"}, "dataset_not_found", "dataset"),
    ("filters", {"model": "gone", "version": 1}, "model_not_found", "gone"),
    ("filters", {"model": "pets", "version": 7}, "version_not_found", "7"),
    ("dataset_import", {"name": "pets"}, "invalid_archive", ""),  # its upload
    ("dataset_video", {"target": "ds_gone", "label": "cat"}, "not_found", "video"),  # its upload
    ("calibration", {"dataset_id": "ds_gone", "target_fmr": 0.01}, "", ""),
    ("enrollment", {"subject_id": "sub_gone", "images": 1}, "model_not_ready", "face"),
    ("face_detection", {"limit": 3}, "not_found", "image"),  # its upload
    ("heatmap", HEATMAP | {"model": "gone"}, "", "gone"),
    ("heatmap", HEATMAP | {"version": 7}, "version_not_found", "7"),
    ("style_transfer", {"method": "fast", "styles": 1}, "invalid_image", "lost"),  # its upload
    ("style_transfer", {"styles": 1}, "invalid_image", "lost"),
    ("dream", {"model": "pets", "version": "1"}, "invalid_image", "lost"),
    ("activations", ACTIVATIONS, "not_found", "image-000"),  # its upload
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An installation with a dataset and a version."""
    home = tmp_path_factory.mktemp("home")
    settings = Settings(_env_file=None, home=home, offline=True)
    make_tables(settings.database)
    (home / "pets.zip").write_bytes(zipped(tree({"cat": 8, "dog": 8})))
    DatasetStore.of(settings).create("pets", home / "pets.zip", dataset_id="ds_pets")
    store = Store(settings.store_home)
    with store.staging() as folder:
        write_files(folder)
        store.publish("pets", folder, DRAFT)
    return settings


@pytest.mark.parametrize(("kind", "request_", "code", "word"), MISSING)
def test_missing_part_ends_the_job_with_words(
    settings: Settings,
    tmp_path: Path,
    kind: JobKind,
    request_: dict[str, Any],
    code: str,
    word: str,
) -> None:
    with pytest.raises(Exception) as raised:
        load_handler(kind)(InMemoryWork("job_missing", request_, tmp_path), settings)
    error = raised.value
    if not isinstance(error, OpsinError):
        error = _client_error(error, kind)
    assert not error.is_passing, error
    assert error.code != "internal_error", (raised.value, error.detail)
    assert error.code == code or not code
    assert word in error.detail
    assert str(settings.home) not in error.detail


def test_every_kind_is_tried() -> None:
    assert {kind for kind, *_ in MISSING} == set(WORK_QUEUES)
