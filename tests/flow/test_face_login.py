"""A login by face through a real worker and real faces: let in, kept out, named, erased."""

from datetime import UTC, datetime
from pathlib import Path

import httpx
import jwt
import numpy as np
import pytest

from contracts.faces.faces import FACE_MODEL, FacesAsk, FacesNote
from contracts.faces.subjects import NewTemplate, embedder_of
from contracts.settings import Settings
from database.engine import open_engine
from database.faces.faces import Faces
from tests.flow.conftest import Start
from tests.flow.running import READY_SECONDS, Running
from tests.flow.test_faces import asked
from tests.models.faces.pictures import read

pytestmark = pytest.mark.shared
URL = "/v1/faces"


@pytest.fixture
def alone(start: Start, fetched: Path) -> Running:
    """An installation that knows faces and nothing else."""
    if not (fetched / "weights/face_landmark.tflite").is_file():
        pytest.skip("the faces' weights are not there; run `make setup`")
    return start(OPSIN_MODELS=FACE_MODEL)


def test_people_log_in_by_face(alone: Running, shared: Path) -> None:
    photos = sorted((shared / "data/face-pairs").glob("person0[12]/*"))
    ada, bea = (
        [p for p in photos if p.parent.name == name][:2] for name in ("person01", "person02")
    )
    alone.await_that(alone.nothing_loads, READY_SECONDS)
    with httpx.Client(base_url=alone.url, timeout=60) as client:
        ids = [enrolled(alone, client, photo) for photo in (ada[0], bea[0])]
        told = client.post(
            f"{URL}/login",
            data={"subject_id": ids[0]},
            files={"image": ada[1].read_bytes()},
        ).json()
        assert told["decision"] == "match", told
        keys = jwt.PyJWKSet.from_dict(client.get("/.well-known/jwks.json").json())
        claims = jwt.decode(told["token"], keys.keys[0], ["EdDSA"], audience="opsin")
        assert claims["sub"] == ids[0]
        other = client.post(
            f"{URL}/login", data={"subject_id": ids[0]}, files={"image": bea[1].read_bytes()}
        ).json()
        assert other["decision"] != "match"
        assert other["token"] is None
        (face,) = identified(client, bea[1])
        assert [one["subject_id"] for one in face["candidates"]] == [ids[1]]
        assert client.delete(f"{URL}/subjects/{ids[1]}").json()["erased"]["templates"] == 1
        (face,) = identified(client, bea[1])
        assert face["candidates"] == []


def enrolled(running: Running, client: httpx.Client, photo: Path) -> str:
    """A subject with one template, put there as an enrollment would."""
    reply = asked(running, read(photo), FacesAsk(embed=True, most=1))
    assert reply.vector is not None, reply.error
    (face,) = FacesNote.model_validate_json(reply.note).faces
    subject_id: str = client.post(f"{URL}/subjects", json={"name": photo.parent.name}).json()["id"]
    settings = Settings(_env_file=None, home=running.home)
    engine = open_engine(settings.database)
    faces = Faces.of(settings, engine, lambda: datetime.now(UTC))
    vector = np.asarray(reply.vector, np.float32)
    faces.templates.add(
        subject_id, [NewTemplate(vector, face.quality, "image")], embedder=embedder_of(1)
    )
    engine.dispose()
    return subject_id


def identified(client: httpx.Client, photo: Path) -> list[dict[str, list[dict[str, str]]]]:
    answer = client.post(f"{URL}/identify", files={"image": photo.read_bytes()})
    faces: list[dict[str, list[dict[str, str]]]] = answer.json()["faces"]
    return faces
