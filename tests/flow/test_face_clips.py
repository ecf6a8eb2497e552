"""Enrolled by video, logged in by video: over HTTP, through both workers, with a real face.

The clips are rendered from a photograph whose mesh does what the challenge asks.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import httpx
import jwt
import pytest

from contracts.faces.faces import FACE_MODEL
from contracts.faces.liveness import Action
from models.faces.detection.finder import open_finder
from models.weights.catalog import Weights
from tests.flow.conftest import Start
from tests.flow.running import READY_SECONDS, Running
from tests.models.faces.rendering import Face, Puppet, performance, write_video

pytestmark = [pytest.mark.shared, pytest.mark.slow]
URL = "/v1/faces"
FPS = 12.0


@pytest.fixture
def running(start: Start, fetched: Path) -> Running:
    """An installation that knows faces, and does long work."""
    if not (fetched / "weights/face_landmark.tflite").is_file():
        pytest.skip("the faces' weights are not there; run `make setup`")
    running = start(OPSIN_MODELS=FACE_MODEL)
    running.run("jobs", "worker --jobs")
    running.await_that(running.nothing_loads, READY_SECONDS)
    return running


@pytest.fixture
def puppets(fetched: Path, shared: Path) -> list[Puppet]:
    """Two people."""
    finder = open_finder(Weights(fetched / "weights", None, True), threads=1)
    made = []
    for name in ("person10", "person01"):
        path = min((shared / "data/caltech-faces" / name).iterdir())
        picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        made.append(Puppet(Face(picture, finder.look(picture, 1).faces[0].mesh)))
    return made


def test_a_person_is_enrolled_and_let_in_by_video(
    running: Running, puppets: list[Puppet], tmp_path: Path
) -> None:
    me, stranger = puppets
    with httpx.Client(base_url=running.url, timeout=120) as client:
        ada: str = client.post(f"{URL}/subjects", json={"name": "Ada"}).json()["id"]
        job = enrolled(client, ada, filmed(me, ("turn_left", "turn_right"), 1, tmp_path))
        assert job["state"] == "succeeded", job
        assert job["result"]["templates_added"] >= 1

        asked = challenge(client, ada)
        clip = filmed(me, asked["actions"], 2, tmp_path)
        answer = login(client, ada, clip, asked)
        assert answer["decision"] == "match", answer
        claims = jwt.decode(answer["token"], options={"verify_signature": False})
        assert (claims["sub"], claims["liveness"]) == (ada, True)

        # Stolen, and sent with a challenge of the thief's own; it asks for the same.
        again = login(client, ada, clip, challenge(client, ada))
        assert (again["decision"], again["reason"]) == ("no_match", "replayed")
        # Somebody else answers well, and tries to be enrolled as the same person.
        asked = challenge(client, ada)
        other = login(client, ada, filmed(stranger, asked["actions"], 3, tmp_path), asked)
        assert (other["decision"], other["token"]) == ("no_match", None)
        joined = enrolled(client, ada, filmed(stranger, ("turn_left",), 4, tmp_path))
        assert (joined["state"], joined["error"]["code"]) == ("failed", "conflict")


def challenge(client: httpx.Client, subject: str) -> dict[str, Any]:
    answer = client.post(f"{URL}/challenges", json={"purpose": "login", "subject_id": subject})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def filmed(puppet: Puppet, actions: Sequence[Action], seed: int, folder: Path) -> bytes:
    frames = performance(puppet, actions, fps=FPS, seed=seed)
    return write_video(folder / f"{seed}.mp4", frames, FPS)


def login(
    client: httpx.Client, subject: str, video: bytes, asked: dict[str, Any]
) -> dict[str, Any]:
    sent = {"subject_id": subject, "challenge_id": asked["id"], "nonce": asked["nonce"]}
    headers = {"X-Timeout-Ms": "60000"}
    answer = client.post(f"{URL}/login", data=sent, files={"video": video}, headers=headers)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def enrolled(client: httpx.Client, subject: str, video: bytes) -> dict[str, Any]:
    """The job of an enrollment, ended."""
    where = f"{URL}/subjects/{subject}/enrollments"
    answer = client.post(where, files={"video": video})
    assert answer.status_code == 202, answer.text
    until = time.monotonic() + 180
    while True:
        job: dict[str, Any] = client.get(f"/v1/jobs/{answer.json()['id']}").json()
        if job["state"] in {"succeeded", "failed"} or time.monotonic() > until:
            return job
        time.sleep(0.2)
