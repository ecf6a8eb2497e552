"""From a dataset to a threshold: over pictures made by code, and over real faces."""

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
from models.datasets.library import Library
from models.faces.calibration import job as calibration_job
from models.faces.calibration.job import evenly, the_one_face
from models.faces.detection.detection import FoundFace
from tests.models.training.told_work import ToldWork

PEOPLE, FACES = 12, 4


def face(width: float, *, acceptable: bool = True, chip: Pixels | None = None) -> FoundFace:
    quality = Quality(
        sharpness=9, brightness=9, yaw=0, pitch=0, roll=0, size=9, acceptable=acceptable
    )
    box = Box(x=0, y=0, width=width, height=width)
    empty = np.zeros((150, 150, 3), np.uint8)
    return FoundFace(
        face=Face(box=box, score=1, landmarks={}, quality=quality),
        mesh=np.zeros((468, 3), np.float32),
        chip=empty if chip is None else chip,
    )


class Painted:
    """Sees a face in every picture: none where its corner is black, a bad one where it is white.

    Embeds by the picture's 16 blocks.
    """

    version = 7

    def find(self, picture: Pixels, most: int = 32) -> list[FoundFace]:
        corner = int(picture[0, 0, 0])
        chip = np.asarray(Image.fromarray(picture).resize((150, 150), Image.Resampling.NEAREST))
        return [] if corner == 0 else [face(60, acceptable=corner != 255, chip=chip)][:most]

    def embed(self, chips: Pixels) -> Vector:
        rows = chips[:, 18::37, 18::37, 0].reshape(len(chips), -1).astype(np.float32) - 128
        flat = np.pad(rows, ((0, 0), (0, 128 - rows.shape[1])))
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def painted(pattern: Pixels, corner: int, chance: np.random.Generator) -> bytes:
    noisy = np.clip(pattern + chance.normal(0, 12, pattern.shape), 1, 254).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(noisy).resize((64, 64), Image.Resampling.NEAREST)).copy()
    pixels[0, 0] = corner
    packed = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(packed, "PNG")
    return packed.getvalue()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """12 people of 4 pictures; the first has one without a face, the second a bad one."""
    home = tmp_path_factory.mktemp("home")
    chance = np.random.default_rng(8)
    for person in range(PEOPLE):
        pattern = chance.integers(20, 236, (4, 4)).astype(np.uint8)
        folder = home / "pictures" / f"p{person:02}"
        folder.mkdir(parents=True)
        for number in range(FACES):
            corner = {(0, 0): 0, (1, 0): 255}.get((person, number), 100)
            (folder / f"{number}.png").write_bytes(painted(pattern, corner, chance))
    settings = Settings(home=home)
    Library.of(settings).create("crew", home / "pictures", dataset_id="ds_crew")
    return settings


@pytest.fixture(autouse=True)
def analyser(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "shared" not in request.keywords:
        monkeypatch.setattr(calibration_job, "open_analyser", lambda *_, **__: Painted())


def work_of(folder: Path, **more: Any) -> ToldWork:
    asked = {"dataset_id": "ds_crew", "target_fmr": 0.01} | more
    return ToldWork("job_1", asked, folder)


def test_a_data_set_becomes_a_threshold(settings: Settings, tmp_path: Path) -> None:
    work = work_of(tmp_path, groups={"p00": "one", "p01": "one"})
    told = calibration_job.run(work, settings)
    result = CalibrationResult.model_validate_json(json.dumps(told))
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


def test_bad_faces_count_if_that_is_asked(settings: Settings, tmp_path: Path) -> None:
    told = calibration_job.run(work_of(tmp_path, only_acceptable=False), settings)
    assert told["faces"] == 47
    assert [one["reason"] for one in told["left_out"]] == ["no_face"]


def test_what_the_faces_cannot_support_is_refused_with_what_was_left_out(
    settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(NotTrainable, match=r"cannot support.*left out: 1 low_quality, 1 no_face"):
        calibration_job.run(work_of(tmp_path, target_fmr=0.001), settings)
    with pytest.raises(DatasetNotFound):
        calibration_job.run(work_of(tmp_path, dataset_id="ds_none"), settings)


def test_it_is_the_picture_of_who_is_before_the_others() -> None:
    large, second, small = face(100), face(50), face(49)
    assert the_one_face([large, small]) is large
    assert the_one_face([large, second]) == "many_faces"
    assert the_one_face([]) == "no_face"


def test_of_too_many_each_person_keeps_as_many() -> None:
    examples = [
        Example(Path(f"{label}{number}"), label, "train", f"{label}{number}")
        for label, count in (("a", 9), ("b", 2), ("c", 4))
        for number in range(count)
    ]
    kept = [one.label for one in evenly(examples, 8)]
    assert sorted(kept) == ["a", "a", "a", "b", "b", "c", "c", "c"]
    assert evenly(examples, 15) == examples
