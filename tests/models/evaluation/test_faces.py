"""A version that was trained on faces is measured on faces, as requests cut them out."""

import csv
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from contracts.errors import NotTrainable
from contracts.faces.faces import LONGEST_SIDE
from contracts.inference.evaluation import EvaluationResult
from contracts.settings import Settings
from models.datasets.store import DatasetStore
from models.evaluation import job
from models.export import quantization
from models.faces.detection.finder import open_finder
from models.faces.portrait import crop_portrait
from models.images.decode import decode_reduced
from models.store.store import Store
from models.training import run as training
from models.weights.catalog import Weights, WeightsMissing
from tests.models import keras_warnings
from tests.models.training.in_memory_work import InMemoryWork

pytestmark = [pytest.mark.shared, keras_warnings.ignored]

PEOPLE = ("person01", "person10")
CROP = "crops"
WHOLE = "whole"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, shared: Path, fetched: Path) -> Settings:
    """Two datasets: whole photos, three of which do not show one face, and crops of the others.

    Version 1 was trained on the crops as on any images, version 2 is the same one, of subjects.
    """
    home = tmp_path_factory.mktemp("home")
    (home / "weights").symlink_to(fetched / "weights")
    settings = Settings(
        _env_file=None, home=home, decode_threads=1, job_threads=1, precision="float32"
    )
    try:
        finder = open_finder(Weights.of(settings), threads=1)
    except WeightsMissing as missing:
        pytest.skip(missing.detail)
    for person in PEOPLE:
        photos = sorted((shared / "data/caltech-faces" / person).iterdir())[:12]
        for number, photo in enumerate(photos):
            split = ("train", "train", "train", "validation", "test", "test")[number % 6]
            _write(home / WHOLE / split / person / f"{number}.jpg", photo.read_bytes())
            image = decode_reduced(photo.read_bytes(), longest_side=LONGEST_SIDE, max_pixels=10**7)
            face = finder.find(image.pixels, 1).faces[0].face
            portrait = crop_portrait(image.pixels, face.box)
            _write(home / CROP / split / person / f"{number}.png", portrait)
    flower = next((shared / "data/flowers/test").rglob("*.jpg"))
    _write(home / WHOLE / "test" / PEOPLE[0] / "flower.jpg", flower.read_bytes())
    two = cv2.imread(str(home / WHOLE / "test" / PEOPLE[0] / "4.jpg"))
    _write(home / WHOLE / "test" / PEOPLE[1] / "two.png", _png(np.hstack([two, two])))
    _write(home / "none" / "test" / PEOPLE[0] / "flower.jpg", flower.read_bytes())
    for name in (CROP, WHOLE, "none"):
        DatasetStore.of(settings).create(name, home / name, dataset_id=f"ds_{name}")
    for number in (1, 2):
        request = {"dataset_id": f"ds_{CROP}", "model": "people", "network": "cnn_small"}
        request |= {"image_size": [70, 50], "epochs": {"scratch": 2}, "promote": "always"}
        training.run(_work(settings, f"job_{number}", request), settings)
    manifest = Store(settings.store_home).path("people", 2) / "manifest.json"
    changed = json.loads(manifest.read_text())
    changed["provenance"]["spec"] |= {"dataset_id": None, "subjects": ["sub_a", "sub_b"]}
    manifest.write_text(json.dumps(changed))
    return settings


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _png(image: np.ndarray) -> bytes:  # type: ignore[type-arg]
    return cv2.imencode(".png", image)[1].tobytes()


def _work(settings: Settings, name: str, request: dict[str, object]) -> InMemoryWork:
    folder = settings.home / "work" / name
    folder.mkdir(parents=True, exist_ok=True)
    return InMemoryWork(name, request, folder)


def _evaluated(settings: Settings, **request: object) -> tuple[EvaluationResult, dict[str, float]]:
    """The result, and the probability of the predicted class of each image."""
    work = _work(settings, "job_evaluation", {"model": "people"} | request)
    result = EvaluationResult.model_validate(job.run(work, settings))
    rows = csv.DictReader(io.StringIO(work.artifacts["predictions.csv"][1].decode()))
    return result, {
        f"{row['label']}/{Path(row['name']).stem}": float(row["probability"]) for row in rows
    }


def test_faces_are_cut_out_and_other_images_left_out(settings: Settings) -> None:
    crops, expected = _evaluated(settings, dataset_id=f"ds_{CROP}", version=1)
    faces, found = _evaluated(settings, dataset_id=f"ds_{WHOLE}", version=2, against=1)
    assert faces.refused == {"many_faces": 1, "no_face": 1}
    assert [warning.code for warning in faces.warnings] == ["refused"]
    assert faces.pictures == crops.pictures == len(expected) == 8
    assert found == pytest.approx(expected, abs=1e-3)
    assert faces.confusion_matrix == crops.confusion_matrix
    # The other version takes the photos as they are; both are compared on the images of the first.
    assert faces.comparison is not None
    assert faces.comparison.pictures == 8
    whole, unlike = _evaluated(settings, dataset_id=f"ds_{WHOLE}", version=1, against=2)
    assert (whole.pictures, whole.refused) == (10, {})
    assert whole.comparison is not None
    assert whole.comparison.pictures == 8
    assert {name: unlike[name] for name in expected} != pytest.approx(expected, abs=1e-3)


def test_dataset_without_faces_is_refused(settings: Settings) -> None:
    with pytest.raises(NotTrainable, match="no_face 1"):
        _evaluated(settings, dataset_id="ds_none", version=2)


@pytest.mark.slow
def test_int8_version_is_calibrated_and_measured_on_faces(settings: Settings) -> None:
    request = {"model": "people", "version": 2, "dataset_id": f"ds_{WHOLE}", "promote": False}
    result = quantization.run(_work(settings, "job_int8", request), settings)
    assert result["pictures"] == {"calibration": 12, "measured": 8}
    request["dataset_id"] = "ds_none"
    with pytest.raises(NotTrainable, match="shows one face"):
        quantization.run(_work(settings, "job_int8_none", request), settings)
