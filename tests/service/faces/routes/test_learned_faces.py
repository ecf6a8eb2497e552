"""People who are learned from: trainings of subjects, their erasure, and thresholds of jobs."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from contracts.faces.calibration import CalibrationResult
from contracts.faces.faces import DEFAULT_SIMILARITY, Quality
from contracts.faces.subjects import Frame, NewTemplate, Threshold
from contracts.inference.manifest import Provenance
from models.faces.calibration.calibration import calibrate
from models.faces.calibration.comparisons import Comparisons
from tests.models.drafts import DRAFT, write_files
from tests.models.faces.people import strewn
from tests.service.parts import NOW, House, desk_in, picture

SUBJECTS, TRAININGS, THRESHOLD = "/v1/faces/subjects", "/v1/trainings", "/v1/faces/threshold"
QUALITY = Quality(sharpness=100, brightness=120, yaw=0, pitch=0, roll=0, size=60, acceptable=True)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(faces=desk_in(tmp_path, tables=True))


@pytest.fixture
def people(client: httpx.Client, house: House) -> list[str]:
    """Two with five kept frames each, and a third with none."""
    ids = []
    for name, frames in (("ada", 5), ("bob", 5), ("eve", 0)):
        made = client.post(SUBJECTS, json={"name": name, "keep_frames": True})
        ids.append(str(made.json()["id"]))
        for number in range(frames):
            vector = np.eye(128, dtype=np.float32)[number]
            new = NewTemplate(vector, QUALITY, "image", Frame("image/png", b"%d" % number))
            house.faces.kept.templates.add(ids[-1], [new], embedder="face_embedder:1")
    return ids


def asked(subjects: list[str], **more: Any) -> dict[str, Any]:
    return {"subjects": subjects, "model": "door", "network": "face_cnn"} | more


def test_a_training_of_subjects_is_the_preset_of_the_tutorials(
    client: httpx.Client, house: House, people: list[str]
) -> None:
    answer = client.post(TRAININGS, json=asked(people[:2], batch_size=7))
    assert answer.status_code == 202, answer.text
    ((_, request, _),) = house.shelf.worked
    assert (request["network"], request["image_size"]) == ("cnn_face", [70, 50])
    assert (request["subjects"], request["dataset_id"]) == (people[:2], None)
    assert (request["batch_size"], request["augmentation"]["horizontal_flip"]) == (7, True)


def test_who_has_no_frames_is_named(client: httpx.Client, house: House, people: list[str]) -> None:
    answer = client.post(TRAININGS, json=asked(people))
    assert (answer.status_code, answer.json()["code"]) == (422, "not_trainable")
    assert f"{people[2]} (0)" in answer.json()["detail"]
    assert people[0] not in answer.json()["detail"]
    gone = client.post(TRAININGS, json=asked([people[0], "sub_nobody"]))
    assert (gone.status_code, gone.json()["code"]) == (404, "subject_not_found")
    assert house.shelf.worked == []


@pytest.mark.parametrize(
    "change",
    [
        {"dataset_id": "ds_1"},
        {"network": "vgg16"},
        {"subjects": ["sub_a"]},
        {"subjects": ["sub_a", "sub_a"]},
        {"subjects": None},
    ],
)
def test_what_does_not_go_together(client: httpx.Client, change: dict[str, Any]) -> None:
    answer = client.post(TRAININGS, json=asked(["sub_a", "sub_b"]) | change)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")


def test_erasing_somebody_erases_what_was_learned_of_them(
    client: httpx.Client, house: House, people: list[str]
) -> None:
    for subjects in (people[1:], people):
        with house.store.staging() as folder:
            write_files(folder)
            draft = DRAFT.model_copy(update={"provenance": Provenance(spec={"subjects": subjects})})
            house.store.promote("door", house.store.publish("door", folder, draft))
    training = client.post(TRAININGS, json=asked(people[:2])).json()["id"]
    answer = client.delete(f"{SUBJECTS}/{people[0]}")
    assert answer.json() == {
        "erased": {"templates": 5, "files": 5, "models": [{"model": "door", "version": 2}]}
    }
    assert house.store.versions("door") == [1]
    assert house.store.aliases("door") == {"champion": 1}
    assert house.shelf.get(training).state == "cancelled"


def test_a_calibration_is_put_in_force_by_its_job(client: httpx.Client, house: House) -> None:
    default = client.get(THRESHOLD).json()
    assert (default["source"], default["similarity"]) == ("default", DEFAULT_SIMILARITY)
    found = calibrate(Comparisons.of(*strewn(12, 5)), 0.01)
    result = CalibrationResult(
        **found.model_dump(),
        dataset_id="ds_1",
        dataset_digest="sha256:0",
        model="face_embedder",
        version=1,
        pictures=60,
    )
    done: dict[str, Any] = {"attempt": 1, "state": "succeeded", "started_at": NOW}
    told = result.model_dump(mode="json")
    job = house.shelf.put("job_c", kind="calibration", result=told, **done)
    answer = client.put(THRESHOLD, json={"calibration_job_id": job.id})
    assert answer.status_code == 200, answer.text
    now = client.get(THRESHOLD).json()
    assert now["similarity"] == pytest.approx(found.threshold)
    assert (now["source"], now["target_fmr"], now["embedder"]) == (
        "calibration",
        0.01,
        "face_embedder:1",
    )
    assert now["measured_on"] == "ds_1: 60 faces of 12 people"
    other = result.model_copy(update={"version": 3}).model_dump(mode="json")
    house.shelf.put("job_o", kind="calibration", result=other, **done)
    refused = client.put(THRESHOLD, json={"calibration_job_id": "job_o"})
    assert refused.status_code == 422
    assert "face_embedder:3" in refused.json()["detail"]
    assert client.get(THRESHOLD).json() == now


def test_only_a_calibration_that_succeeded_is_taken(client: httpx.Client, house: House) -> None:
    house.shelf.put("job_q", kind="calibration")
    house.shelf.put("job_t", kind="training", state="succeeded", result={})
    for job in ("job_q", "job_t"):
        answer = client.put(THRESHOLD, json={"calibration_job_id": job})
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert client.put(THRESHOLD, json={"calibration_job_id": "job_x"}).status_code == 404
    for body in ({}, {"similarity": 0.9, "calibration_job_id": "job_q"}):
        assert client.put(THRESHOLD, json=body).status_code == 422
    assert client.get(THRESHOLD).json()["source"] == "default"


def test_a_threshold_of_another_embedder_gives_way_to_a_stricter_one(
    client: httpx.Client, house: House
) -> None:
    put = house.faces.kept.threshold.put
    put(Threshold(similarity=0.3, embedder="face_embedder:7"))
    told = client.get(THRESHOLD).json()
    assert (told["stale"], told["similarity"]) == (True, DEFAULT_SIMILARITY)
    pair = [("image", (name, picture(level))) for name, level in (("a", 40), ("b", 100))]
    seen = client.post("/v1/faces/verify", files=pair).json()  # a cosine of 0.59
    assert (seen["match"], seen["threshold"]) == (False, DEFAULT_SIMILARITY)
    put(Threshold(similarity=0.97, embedder="face_embedder:7"))
    assert client.get(THRESHOLD).json()["similarity"] == 0.97
    put(Threshold(similarity=0.3, embedder="face_embedder:1"))
    assert client.get(THRESHOLD).json()["stale"] is False
    assert client.post("/v1/faces/verify", files=pair).json()["match"] is True
