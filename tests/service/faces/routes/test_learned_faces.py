"""Trainings on subjects, their use and erasure, and thresholds from calibration jobs."""

import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from contracts.faces.calibration import CalibrationResult
from contracts.faces.faces import DEFAULT_SIMILARITY, Quality
from contracts.faces.subjects import NewTemplate, StoredFrame, Threshold
from contracts.inference.manifest import Provenance
from models.faces.calibration.calibration import calibrate
from models.faces.calibration.comparisons import Comparisons
from models.store.snapshot import ServedVersion
from tests.models.drafts import DRAFT, write_files
from tests.models.faces.embeddings import random_embeddings
from tests.service.face_replies import CROWD, NO_FACE
from tests.service.parts import NOW, SERVED, FakeServices, face_services_in, gray_png

SUBJECTS, TRAININGS, THRESHOLD = "/v1/faces/subjects", "/v1/trainings", "/v1/faces/threshold"
QUALITY = Quality(sharpness=100, brightness=120, yaw=0, pitch=0, roll=0, size=60, acceptable=True)


@pytest.fixture
def fakes(tmp_path: Path) -> FakeServices:
    return FakeServices(faces=face_services_in(tmp_path, tables=True))


@pytest.fixture
def people(client: httpx.Client, fakes: FakeServices) -> list[str]:
    """Two subjects with five stored frames each, and a third without frames."""
    ids = []
    for name, frames in (("ada", 5), ("bob", 5), ("eve", 0)):
        made = client.post(SUBJECTS, json={"name": name, "keep_frames": True})
        ids.append(str(made.json()["id"]))
        for number in range(frames):
            vector = np.eye(128, dtype=np.float32)[number]
            new = NewTemplate(vector, QUALITY, "image", StoredFrame("image/png", b"%d" % number))
            fakes.faces.templates.add(ids[-1], [new], embedder="face_embedder:1")
    return ids


def training_request(subjects: list[str], **more: Any) -> dict[str, Any]:
    return {"subjects": subjects, "model": "door", "network": "face_cnn"} | more


def test_a_training_on_subjects_uses_the_preset_of_the_tutorials(
    client: httpx.Client, fakes: FakeServices, people: list[str]
) -> None:
    answer = client.post(TRAININGS, json=training_request(people[:2], batch_size=7))
    assert answer.status_code == 202, answer.text
    ((_, request, _),) = fakes.jobs.worked
    assert (request["network"], request["image_size"]) == ("cnn_face", [70, 50])
    assert (request["subjects"], request["dataset_id"]) == (people[:2], None)
    assert (request["batch_size"], request["augmentation"]["horizontal_flip"]) == (7, True)


def test_subjects_without_frames_are_named(
    client: httpx.Client, fakes: FakeServices, people: list[str]
) -> None:
    answer = client.post(TRAININGS, json=training_request(people))
    assert (answer.status_code, answer.json()["code"]) == (422, "not_trainable")
    assert f"{people[2]} (0)" in answer.json()["detail"]
    assert people[0] not in answer.json()["detail"]
    gone = client.post(TRAININGS, json=training_request([people[0], "sub_nobody"]))
    assert (gone.status_code, gone.json()["code"]) == (404, "subject_not_found")
    assert fakes.jobs.worked == []


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
def test_contradicting_options_are_refused(client: httpx.Client, change: dict[str, Any]) -> None:
    answer = client.post(TRAININGS, json=training_request(["sub_a", "sub_b"]) | change)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")


def test_erasing_a_subject_deletes_versions_trained_on_it(
    client: httpx.Client, fakes: FakeServices, people: list[str]
) -> None:
    for subjects in (people[1:], people):
        with fakes.store.staging() as folder:
            write_files(folder)
            draft = DRAFT.model_copy(update={"provenance": Provenance(spec={"subjects": subjects})})
            fakes.store.promote("door", fakes.store.publish("door", folder, draft))
    training = client.post(TRAININGS, json=training_request(people[:2])).json()["id"]
    answer = client.delete(f"{SUBJECTS}/{people[0]}")
    assert answer.json() == {
        "erased": {"templates": 5, "files": 5, "models": [{"model": "door", "version": 2}]}
    }
    assert fakes.store.versions("door") == [1]
    assert fakes.store.aliases("door") == {"champion": 1}
    assert fakes.jobs.get(training).state == "cancelled"


def test_a_threshold_can_be_set_from_a_calibration_job(
    client: httpx.Client, fakes: FakeServices
) -> None:
    default = client.get(THRESHOLD).json()
    assert (default["source"], default["similarity"]) == ("default", DEFAULT_SIMILARITY)
    found = calibrate(Comparisons.of(*random_embeddings(12, 5)), 0.01)
    result = CalibrationResult(
        **found.model_dump(),
        dataset_id="ds_1",
        dataset_digest="sha256:0",
        model="face_embedder",
        version=1,
        pictures=60,
    )
    done: dict[str, Any] = {"attempt": 1, "state": "succeeded", "started_at": NOW}
    result_json = result.model_dump(mode="json")
    job = fakes.jobs.put("job_c", kind="calibration", result=result_json, **done)
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
    fakes.jobs.put("job_o", kind="calibration", result=other, **done)
    refused = client.put(THRESHOLD, json={"calibration_job_id": "job_o"})
    assert refused.status_code == 422
    assert "face_embedder:3" in refused.json()["detail"]
    beyond = result.model_copy(update={"threshold": 1.0000002}).model_dump(mode="json")
    fakes.jobs.put("job_b", kind="calibration", result=beyond, **done)
    refused = client.put(THRESHOLD, json={"calibration_job_id": "job_b"})
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_error")
    assert client.get(THRESHOLD).json() == now


def test_only_a_successful_calibration_is_accepted(
    client: httpx.Client, fakes: FakeServices
) -> None:
    fakes.jobs.put("job_q", kind="calibration")
    fakes.jobs.put("job_t", kind="training", state="succeeded", result={})
    for job in ("job_q", "job_t"):
        answer = client.put(THRESHOLD, json={"calibration_job_id": job})
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert client.put(THRESHOLD, json={"calibration_job_id": "job_x"}).status_code == 404
    for body in ({}, {"similarity": 0.9, "calibration_job_id": "job_q"}):
        assert client.put(THRESHOLD, json=body).status_code == 422
    assert client.get(THRESHOLD).json()["source"] == "default"


def test_a_threshold_of_another_embedder_is_at_least_the_default(
    client: httpx.Client, fakes: FakeServices
) -> None:
    set_threshold = fakes.faces.repositories.threshold.set
    set_threshold(Threshold(similarity=0.3, embedder="face_embedder:7"))
    threshold = client.get(THRESHOLD).json()
    assert (threshold["stale"], threshold["similarity"]) == (True, DEFAULT_SIMILARITY)
    pair = [("image", (name, gray_png(level))) for name, level in (("a", 40), ("b", 100))]
    verification = client.post("/v1/faces/verify", files=pair).json()  # a cosine of 0.59
    assert (verification["match"], verification["threshold"]) == (False, DEFAULT_SIMILARITY)
    set_threshold(Threshold(similarity=0.97, embedder="face_embedder:7"))
    assert client.get(THRESHOLD).json()["similarity"] == 0.97
    set_threshold(Threshold(similarity=0.3, embedder="face_embedder:1"))
    assert client.get(THRESHOLD).json()["stale"] is False
    assert client.post("/v1/faces/verify", files=pair).json()["match"] is True


def portrait_of(level: int, border: int, size: int = 80) -> bytes:
    """A PNG whose middle, where the fake worker finds the face, has another gray level."""
    pixels = np.full((size, size, 3), border, np.uint8)
    edge = size // 20
    pixels[edge:-edge, edge:-edge] = level
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "PNG")
    return packed.getvalue()


@pytest.fixture
def door(fakes: FakeServices, monkeypatch: pytest.MonkeyPatch) -> None:
    """The served version was trained on subjects."""
    spec = Provenance(spec={"subjects": ["sub_a", "sub_b"]})
    manifest = SERVED.manifest.model_copy(update={"provenance": spec})
    with fakes.store.staging() as folder:
        write_files(folder)
        draft = DRAFT.model_copy(update={"provenance": spec})
        assert fakes.store.publish(manifest.model, folder, draft) == manifest.version
    version = ServedVersion(manifest, SERVED.labels)
    monkeypatch.setattr(fakes.workers, "choose", lambda *_: (version, 1))


@pytest.mark.usefixtures("door")
@pytest.mark.parametrize("prefer", [{}, {"Prefer": "respond-async"}])
def test_a_version_trained_on_subjects_sees_only_the_face(
    client: httpx.Client, fakes: FakeServices, prefer: dict[str, str]
) -> None:
    files = {"image": ("a.png", portrait_of(40, border=250))}
    answer = client.post("/v1/classify", files=files, headers=prefer)
    if prefer:
        assert answer.status_code == 202, answer.text
        (item,) = fakes.jobs.submitted[0]
        assert isinstance(item.content, np.ndarray)
        assert int(item.content.mean()) == 40
        return
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"][0]["predictions"][0]["index"] == 40


@pytest.mark.usefixtures("door")
@pytest.mark.parametrize(("level", "code"), [(NO_FACE, "no_face"), (CROWD, "many_faces")])
@pytest.mark.parametrize("path", ["/v1/classify", "/v1/heatmap", "/v1/activations", "/v1/embed"])
def test_an_image_without_one_face_is_refused_by_a_version_trained_on_subjects(
    client: httpx.Client, path: str, level: int, code: str
) -> None:
    answer = client.post(path, files={"image": ("a.png", gray_png(level))})
    assert (answer.status_code, answer.json()["code"]) == (422, code)


@pytest.mark.usefixtures("door")
def test_each_image_of_several_has_its_own_answer(client: httpx.Client) -> None:
    files = [("image", (f"{n}.png", gray_png(n))) for n in (NO_FACE, 40, CROWD)]
    results = client.post("/v1/classify", files=files).json()["results"]
    assert [result.get("error", {}).get("code") for result in results] == [
        "no_face",
        None,
        "many_faces",
    ]
