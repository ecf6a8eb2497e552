"""Login by face with a real worker and real faces: match, no match, identification, erasure."""

from datetime import UTC, datetime
from pathlib import Path

import httpx
import jwt
import numpy as np
import pytest

from contracts.faces.faces import FACE_MODEL, FacesReply, FacesRequest
from contracts.faces.subjects import NewTemplate, embedder_of
from contracts.settings import Settings
from database.engine import open_engine
from database.faces.repositories import FaceRepositories
from tests.flow.conftest import Start
from tests.flow.installation import READY_SECONDS, Installation
from tests.flow.test_faces import request_faces
from tests.models.faces.images import read

pytestmark = pytest.mark.shared
URL = "/v1/faces"


@pytest.fixture
def faces_only(start: Start, fetched: Path) -> Installation:
    """An installation that serves only faces."""
    if not (fetched / "weights/face_landmark.tflite").is_file():
        pytest.skip("the face weights are missing; run `make setup`")
    return start(OPSIN_MODELS=FACE_MODEL)


def test_people_log_in_by_face(faces_only: Installation, shared: Path) -> None:
    photos = sorted((shared / "data/face-pairs").glob("person0[12]/*"))
    ada, bea = (
        [p for p in photos if p.parent.name == name][:2] for name in ("person01", "person02")
    )
    faces_only.wait_until(faces_only.is_settled, READY_SECONDS)
    with httpx.Client(base_url=faces_only.url, timeout=60) as client:
        ids = [enroll(faces_only, client, photo) for photo in (ada[0], bea[0])]
        matched = client.post(
            f"{URL}/login",
            data={"subject_id": ids[0]},
            files={"image": ada[1].read_bytes()},
        ).json()
        assert matched["decision"] == "match", matched
        keys = jwt.PyJWKSet.from_dict(client.get("/.well-known/jwks.json").json())
        claims = jwt.decode(matched["token"], keys.keys[0], ["EdDSA"], audience="opsin")
        assert claims["sub"] == ids[0]
        other = client.post(
            f"{URL}/login", data={"subject_id": ids[0]}, files={"image": bea[1].read_bytes()}
        ).json()
        assert other["decision"] != "match"
        assert other["token"] is None
        (face,) = identify(client, bea[1])
        assert [candidate["subject_id"] for candidate in face["candidates"]] == [ids[1]]
        assert client.delete(f"{URL}/subjects/{ids[1]}").json()["erased"]["templates"] == 1
        (face,) = identify(client, bea[1])
        assert face["candidates"] == []


def enroll(running: Installation, client: httpx.Client, photo: Path) -> str:
    """A subject with one template, stored as an enrollment stores it."""
    reply = request_faces(running, read(photo), FacesRequest(embed=True, max_faces=1))
    assert reply.vector is not None, reply.error
    (face,) = FacesReply.model_validate_json(reply.note).faces
    subject_id: str = client.post(f"{URL}/subjects", json={"name": photo.parent.name}).json()["id"]
    settings = Settings(_env_file=None, home=running.home)
    engine = open_engine(settings.database)
    faces = FaceRepositories.of(settings, engine, lambda: datetime.now(UTC))
    vector = np.asarray(reply.vector, np.float32)
    faces.templates.add(
        subject_id, [NewTemplate(vector, face.quality, "image")], embedder=embedder_of(1)
    )
    engine.dispose()
    return subject_id


def identify(client: httpx.Client, photo: Path) -> list[dict[str, list[dict[str, str]]]]:
    answer = client.post(f"{URL}/identify", files={"image": photo.read_bytes()})
    faces: list[dict[str, list[dict[str, str]]]] = answer.json()["faces"]
    return faces
