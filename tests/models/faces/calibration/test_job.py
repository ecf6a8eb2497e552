"""From a dataset to a threshold, on synthetic images and on real faces."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contracts.errors import DatasetNotFound, NotTrainable
from contracts.faces.calibration import CalibrationResult
from contracts.faces.faces import Box, Face, Quality
from contracts.queue.messages import Pixels, Vector
from contracts.settings import Settings
from models.datasets.dataset import Example
from models.datasets.store import DatasetStore
from models.faces.calibration import job as calibration_job
from models.faces.calibration.job import main_face, take_evenly
from models.faces.detection.detection import DetectedFace
from tests.models.training.in_memory_work import InMemoryWork

PEOPLE, FACES = 12, 4


def face(width: float, *, acceptable: bool = True, crop: Pixels | None = None) -> DetectedFace:
    quality = Quality(
        sharpness=9, brightness=9, yaw=0, pitch=0, roll=0, size=9, acceptable=acceptable
    )
    box = Box(x=0, y=0, width=width, height=width)
    empty = np.zeros((150, 150, 3), np.uint8)
    return DetectedFace(
        face=Face(box=box, score=1, landmarks={}, quality=quality),
        mesh=np.zeros((468, 3), np.float32),
        crop=empty if crop is None else crop,
    )


class FakeAnalyzer:
    """Sees a face in every image: none if its corner is black, a poor one if it is white.

    The embedding consists of the image's 16 blocks.
    """

    version = 7

    def find(self, image: Pixels, max_faces: int = 32) -> list[DetectedFace]:
        corner = int(image[0, 0, 0])
        crop = np.asarray(Image.fromarray(image).resize((150, 150), Image.Resampling.NEAREST))
        return [] if corner == 0 else [face(60, acceptable=corner != 255, crop=crop)][:max_faces]

    def embed(self, crops: Pixels) -> Vector:
        rows = crops[:, 18::37, 18::37, 0].reshape(len(crops), -1).astype(np.float32) - 128
        flat = np.pad(rows, ((0, 0), (0, 128 - rows.shape[1])))
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def synthetic_image(pattern: Pixels, corner: int, rng: np.random.Generator) -> bytes:
    noisy = np.clip(pattern + rng.normal(0, 12, pattern.shape), 1, 254).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(noisy).resize((64, 64), Image.Resampling.NEAREST)).copy()
    pixels[0, 0] = corner
    packed = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(packed, "PNG")
    return packed.getvalue()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """12 people with 4 images; the first has one without a face, the second a poor one."""
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(8)
    for person in range(PEOPLE):
        pattern = rng.integers(20, 236, (4, 4)).astype(np.uint8)
        folder = home / "pictures" / f"p{person:02}"
        folder.mkdir(parents=True)
        for number in range(FACES):
            corner = {(0, 0): 0, (1, 0): 255}.get((person, number), 100)
            (folder / f"{number}.png").write_bytes(synthetic_image(pattern, corner, rng))
    settings = Settings(home=home)
    DatasetStore.of(settings).create("crew", home / "pictures", dataset_id="ds_crew")
    return settings


@pytest.fixture(autouse=True)
def analyzer(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "shared" not in request.keywords:
        monkeypatch.setattr(calibration_job, "open_analyzer", lambda *_, **__: FakeAnalyzer())


def work_of(folder: Path, **more: Any) -> InMemoryWork:
    requested = {"dataset_id": "ds_crew", "target_fmr": 0.01} | more
    return InMemoryWork("job_1", requested, folder)


def test_a_dataset_gives_a_threshold(settings: Settings, tmp_path: Path) -> None:
    work = work_of(tmp_path, groups={"p00": "one", "p01": "one"})
    result_json = calibration_job.run(work, settings)
    result = CalibrationResult.model_validate_json(json.dumps(result_json))
    assert (result.dataset_id, result.version, result.pictures) == ("ds_crew", 7, 48)
    assert (result.people, result.faces) == (PEOPLE, 46)
    assert result.fnmr.pairs == 10 * 6 + 2 * 3
    assert result.fmr.rate is not None
    assert result.fmr.rate <= 0.01
    assert [(one.person, one.reason, one.pictures) for one in result.left_out] == [
        ("p00", "no_face", 1),
        ("p01", "low_quality", 1),
    ]
    assert [row.group for row in result.groups] == ["one"]
    media_type, png = work.artifacts["det.png"]
    assert media_type == "image/png"
    with Image.open(io.BytesIO(png)) as chart:
        assert chart.size == (1200, 560)
    assert work.fractions == sorted(work.fractions)


def test_poor_faces_count_if_requested(settings: Settings, tmp_path: Path) -> None:
    result_json = calibration_job.run(work_of(tmp_path, only_acceptable=False), settings)
    assert result_json["faces"] == 47
    assert [one["reason"] for one in result_json["left_out"]] == ["no_face"]


def test_an_unsupported_rate_is_refused_with_the_reasons_for_left_out_images(
    settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(NotTrainable, match=r"cannot support.*left out: 1 low_quality, 1 no_face"):
        calibration_job.run(work_of(tmp_path, target_fmr=0.001), settings)
    with pytest.raises(DatasetNotFound):
        calibration_job.run(work_of(tmp_path, dataset_id="ds_none"), settings)


def test_the_main_face_is_clearly_larger_than_others() -> None:
    large, second, small = face(100), face(50), face(49)
    assert main_face([large, small]) is large
    assert main_face([large, second]) == "many_faces"
    assert main_face([]) == "no_face"


def test_the_same_number_of_examples_is_taken_of_each_person() -> None:
    examples = [
        Example(Path(f"{label}{number}"), label, "train", f"{label}{number}")
        for label, count in (("a", 9), ("b", 2), ("c", 4))
        for number in range(count)
    ]
    labels = [one.label for one in take_evenly(examples, 8)]
    assert sorted(labels) == ["a", "a", "a", "b", "b", "c", "c", "c"]
    assert take_evenly(examples, 15) == examples
