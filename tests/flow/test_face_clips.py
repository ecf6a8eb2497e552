"""Enrollment and login by video: over HTTP, with both workers and real faces.

The clips are rendered from a photograph whose mesh performs the actions of the challenge.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from contracts.faces.faces import FACE_MODEL
from contracts.faces.liveness import Action
from tests.flow.conftest import Start
from tests.flow.installation import READY_SECONDS, Installation
from tests.models.faces.rendering import Puppet, performance, write_video

pytestmark = [pytest.mark.shared, pytest.mark.slow]
URL = "/v1/faces"
FPS = 12.0


@pytest.fixture
def running(start: Start, fetched: Path) -> Installation:
    """An installation that serves faces and runs jobs."""
    if not (fetched / "weights/face_landmark.tflite").is_file():
        pytest.skip("the face weights are missing; run `make setup`")
    running = start(OPSIN_MODELS=FACE_MODEL)
    running.run("jobs", "worker --jobs")
    running.wait_until(running.is_settled, READY_SECONDS)
    return running


def test_a_person_enrolls_and_logs_in_by_video(
    running: Installation, puppets: list[Puppet], tmp_path: Path
) -> None:
    me, stranger = puppets
    with httpx.Client(base_url=running.url, timeout=120) as client:
        ada: str = client.post(f"{URL}/subjects", json={"name": "Ada"}).json()["id"]
        job = enroll(client, ada, render(me, ("turn_left", "turn_right"), 1, tmp_path))
        assert job["state"] == "succeeded", job
        assert job["result"]["templates_added"] >= 1

        challenge = get_challenge(client, ada)
        clip = render(me, challenge["actions"], 2, tmp_path)
        answer = login(client, ada, clip, challenge)
        assert answer["decision"] == "match", answer
        claims = jwt.decode(answer["token"], options={"verify_signature": False})
        assert (claims["sub"], claims["liveness"]) == (ada, True)

        # Stolen, and sent with the thief's own challenge, which asks for the same actions.
        again = login(client, ada, clip, get_challenge(client, ada))
        assert (again["decision"], again["reason"]) == ("no_match", "replayed")
        # Another person performs the actions, and tries to enroll as the same subject.
        challenge = get_challenge(client, ada)
        other = login(client, ada, render(stranger, challenge["actions"], 3, tmp_path), challenge)
        assert (other["decision"], other["token"]) == ("no_match", None)
        joined = enroll(client, ada, render(stranger, ("turn_left",), 4, tmp_path))
        assert (joined["state"], joined["error"]["code"]) == ("failed", "conflict")


def get_challenge(client: httpx.Client, subject: str) -> dict[str, Any]:
    answer = client.post(f"{URL}/challenges", json={"purpose": "login", "subject_id": subject})
    assert answer.status_code == 201, answer.text
    challenge: dict[str, Any] = answer.json()
    return challenge


def render(puppet: Puppet, actions: Sequence[Action], seed: int, folder: Path) -> bytes:
    frames = performance(puppet, actions, fps=FPS, seed=seed)
    return write_video(folder / f"{seed}.mp4", frames, FPS)


def login(
    client: httpx.Client, subject: str, video: bytes, challenge: dict[str, Any]
) -> dict[str, Any]:
    sent = {"subject_id": subject, "challenge_id": challenge["id"], "nonce": challenge["nonce"]}
    headers = {"X-Timeout-Ms": "60000"}
    answer = client.post(f"{URL}/login", data=sent, files={"video": video}, headers=headers)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def enroll(client: httpx.Client, subject: str, video: bytes) -> dict[str, Any]:
    """Enroll a video, and return the finished job."""
    where = f"{URL}/subjects/{subject}/enrollments"
    answer = client.post(where, files={"video": video})
    assert answer.status_code == 202, answer.text
    return wait_for_job(client, answer.json()["id"])


def wait_for_job(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """The job once it has ended."""
    until = time.monotonic() + 180
    while True:
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
        if job["state"] in {"succeeded", "failed"} or time.monotonic() > until:
            return job
        time.sleep(0.2)
