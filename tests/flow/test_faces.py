"""The `faces` operation with a real worker: images of any size, embeddings of its own network."""

import secrets
import time
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
import redis

from contracts.faces.faces import FACE_MODEL, FacesReply, FacesRequest
from contracts.queue import redis_keys
from contracts.queue.celery import celery_app
from contracts.queue.messages import Item, Pixels, Reply
from models.catalog import queue_of
from tests.flow.conftest import Start
from tests.flow.installation import Installation
from tests.models.faces.images import read

pytestmark = [pytest.mark.shared, pytest.mark.slow]


@pytest.fixture
def faces_only(start: Start, fetched: Path) -> Installation:
    """An installation that serves only faces."""
    if not (fetched / "weights/face_landmark.tflite").is_file():
        pytest.skip("the face weights are missing; run `make setup`")
    return start(OPSIN_MODELS=FACE_MODEL)


def request_faces(installation: Installation, image: Pixels, request: FacesRequest) -> Reply:
    """A worker's reply to one image in the queue, sent as the API sends it."""
    queue, now = redis_keys.QueueName(FACE_MODEL, 1, "faces"), time.time()
    replies = f"replies:{secrets.token_hex(4)}"
    item = Item(secrets.token_bytes(16), now + 60, now, replies, image, note=request.pack())
    with redis.Redis.from_url(installation.valkey.url) as client:
        client.rpush(queue.key, item.pack())
        celery_app(installation.valkey.url).send_task(
            redis_keys.TASK_BATCH, args=[FACE_MODEL, 1, "faces"], queue=queue_of(FACE_MODEL)
        )
        answer = client.blpop([replies], timeout=60)
    assert answer is not None, installation.log("worker")
    return Reply.unpack(answer[1])


def test_a_worker_finds_and_embeds_faces_at_any_size(
    faces_only: Installation, shared: Path
) -> None:
    image = read(shared / "data/face-pairs/person01/img1.jpg")
    reply = request_faces(faces_only, image, FacesRequest(embed=True))
    assert reply.error is None
    assert reply.vector is not None
    note = FacesReply.model_validate_json(reply.note)
    embeddings = reply.vector.reshape(len(note.faces), 128)
    assert note.total == len(note.faces) == 1
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3)

    larger = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    again = request_faces(faces_only, np.asarray(larger, np.uint8), FacesRequest(embed=True))
    assert again.vector is not None
    assert float(again.vector @ embeddings[0]) > 0.98, "the same face at another size"
    stranger = request_faces(
        faces_only, read(shared / "data/face-pairs/person02/img8.jpg"), FacesRequest(embed=True)
    )
    assert stranger.vector is not None
    assert float(stranger.vector @ embeddings[0]) < 0.93

    models = {model["name"]: model for model in faces_only.get("/v1/models").json()["items"]}
    assert models[FACE_MODEL]["state"] == "ready"
    assert models[FACE_MODEL]["operations"] == ["clip", "embed", "faces"]
    assert models[FACE_MODEL]["classes"] is None
    _, jpeg = cv2.imencode(".jpg", image)
    for path in ("classify", "heatmap", "activations"):
        response = httpx.post(
            f"{faces_only.url}/v1/{path}",
            params={"model": FACE_MODEL},
            files={"image": ("face.jpg", jpeg.tobytes())},
            timeout=30,
        )
        assert response.status_code == 422, response.text
        assert response.json()["code"] == "validation_error"
        assert "recognizes faces" in response.json()["detail"]


@pytest.mark.slow
def test_missing_detector_weights_make_only_faces_unavailable(
    start: Start, tmp_path: Path, fetched: Path
) -> None:
    # A home without the weights of the detector; the embedder is already in the store.
    running = start(OPSIN_MODELS=f"efficientnet_lite0,{FACE_MODEL}")
    weights = tmp_path / "weights"
    weights.mkdir()
    for file in (fetched / "weights").iterdir():
        if file.is_file() and file.suffix != ".tflite":
            (weights / file.name).symlink_to(file)
    running.kill("worker")
    (running.home / "weights").unlink()
    (running.home / "weights").symlink_to(weights)
    running.run("worker", "worker")
    running.wait_for_new_worker()
    running.wait_until(running.is_settled, 120)
    models = {model["name"]: model for model in running.get("/v1/models").json()["items"]}
    assert models["efficientnet_lite0"]["state"] == "ready"
    assert models[FACE_MODEL]["state"] == "unavailable"
    assert "opsin weights pull face_finder" in models[FACE_MODEL]["reason"]
