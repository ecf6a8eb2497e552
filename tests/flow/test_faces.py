"""The lane `faces` through a real worker: pictures of any size, embeddings of its own network."""

import secrets
import time
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
import redis

from contracts.faces.faces import FACE_MODEL, FacesAsk, FacesNote
from contracts.queue import redis_keys
from contracts.queue.celery import celery_app
from contracts.queue.messages import Item, Pixels, Reply
from models.catalog import queue_of
from tests.flow.conftest import Start
from tests.flow.running import Running
from tests.models.faces.pictures import read

pytestmark = [pytest.mark.shared, pytest.mark.slow]


@pytest.fixture
def alone(start: Start, fetched: Path) -> Running:
    """An installation that knows faces and nothing else."""
    if not (fetched / "weights/face_landmark.tflite").is_file():
        pytest.skip("the faces' weights are not there; run `make setup`")
    return start(OPSIN_MODELS=FACE_MODEL)


def asked(running: Running, picture: Pixels, ask: FacesAsk) -> Reply:
    """The answer of a worker to one picture on the lane, as the API would ask for it."""
    lane, now = redis_keys.lane(FACE_MODEL, 1, "faces"), time.time()
    replies = f"replies:{secrets.token_hex(4)}"
    item = Item(secrets.token_bytes(16), now + 60, now, replies, picture, note=ask.pack())
    with redis.Redis.from_url(running.valkey.url) as client:
        client.rpush(lane, item.pack())
        celery_app(running.valkey.url).send_task(
            redis_keys.TASK_DRAIN, args=[FACE_MODEL, 1, "faces"], queue=queue_of(FACE_MODEL)
        )
        answer = client.blpop([replies], timeout=60)
    assert answer is not None, running.log("worker")
    return Reply.unpack(answer[1])


def test_a_worker_finds_and_embeds_the_faces_of_a_picture(alone: Running, shared: Path) -> None:
    picture = read(shared / "data/face-pairs/person01/img1.jpg")
    reply = asked(alone, picture, FacesAsk(embed=True))
    assert reply.error is None
    assert reply.vector is not None
    note = FacesNote.model_validate_json(reply.note)
    embeddings = reply.vector.reshape(len(note.faces), 128)
    assert note.total == len(note.faces) == 1
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3)

    larger = cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    again = asked(alone, np.asarray(larger, np.uint8), FacesAsk(embed=True))
    assert again.vector is not None
    assert float(again.vector @ embeddings[0]) > 0.98, "the same face, whatever the size"
    stranger = asked(
        alone, read(shared / "data/face-pairs/person02/img8.jpg"), FacesAsk(embed=True)
    )
    assert stranger.vector is not None
    assert float(stranger.vector @ embeddings[0]) < 0.93

    told = {one["name"]: one for one in alone.get("/v1/models").json()["items"]}
    assert told[FACE_MODEL]["state"] == "ready"
    assert told[FACE_MODEL]["operations"] == ["clip", "embed", "faces"]
    assert told[FACE_MODEL]["classes"] is None
    _, jpeg = cv2.imencode(".jpg", picture)
    for path in ("classify", "heatmap", "activations"):
        response = httpx.post(
            f"{alone.url}/v1/{path}",
            params={"model": FACE_MODEL},
            files={"image": ("face.jpg", jpeg.tobytes())},
            timeout=30,
        )
        assert response.status_code == 422, response.text
        assert response.json()["code"] == "validation_error"
        assert "tells faces apart" in response.json()["detail"]


@pytest.mark.slow
def test_without_a_part_of_its_weights_it_says_so_and_the_others_serve(
    start: Start, tmp_path: Path, fetched: Path
) -> None:
    # A home whose weights lack what finds faces; the store holds the embedder already.
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
    running.await_new_worker()
    running.await_that(running.nothing_loads, 120)
    told = {one["name"]: one for one in running.get("/v1/models").json()["items"]}
    assert told["efficientnet_lite0"]["state"] == "ready"
    assert told[FACE_MODEL]["state"] == "unavailable"
    assert "opsin weights pull face_finder" in told[FACE_MODEL]["reason"]
