"""One request for several models."""

from typing import Any

import httpx
import pytest

from contracts.errors import ModelNotReady, NoWorker, OpsinError, QueueFull
from contracts.faces.faces import FACE_MODEL
from contracts.settings import Settings
from database.tables import Record
from models.store.snapshot import ServedVersion
from tests.service.face_replies import NO_FACE
from tests.service.parts import SERVED, FakeServices, gray_png

PNG = {"Content-Type": "image/png"}
BOTH = "/v1/classify?model=squeezenet&model=pets&top_k=1"


def served(name: str, version: int = 3, **changes: Any) -> ServedVersion:
    changed = {"model": name, "version": version} | changes
    return ServedVersion(SERVED.manifest.model_copy(update=changed), SERVED.labels)


@pytest.fixture(autouse=True)
def pets(fakes: FakeServices) -> None:
    fakes.workers.others = {"pets": served("pets"), "small": served("small", input_size=(64, 64))}


def ask(client: httpx.Client, url: str = BOTH, **sent: Any) -> dict[str, Any]:
    answer = client.post(url, **(sent or {"content": gray_png(100), "headers": PNG}))
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_each_model_has_its_answer(client: httpx.Client) -> None:
    body = ask(client)
    assert [(one["model"], one["version"]) for one in body["models"]] == [
        ("squeezenet", 1),
        ("pets", 3),
    ]
    for one in body["models"]:
        assert one["batch_size"] == 4
        assert one["results"][0]["predictions"][0]["index"] == 100
    first = {name: body[name] for name in ("model", "version", "batch_size", "results")}
    assert first == body["models"][0], "a client of one model reads the first"
    assert body["timing_ms"]["compute"] == 10.0


def test_embeddings_too(client: httpx.Client) -> None:
    body = ask(client, "/v1/embed?model=squeezenet&model=pets")
    assert [len(one["results"][0]["embedding"]) for one in body["models"]] == [512, 512]


def test_one_model_is_answered_as_ever(client: httpx.Client) -> None:
    once = ask(client, "/v1/classify?model=pets")
    twice = ask(client, "/v1/classify?model=pets&model=pets")
    for body in (once, twice):
        assert body.pop("timing_ms")
        assert set(body) == {"model", "version", "batch_size", "results"}
    assert once == twice


def test_an_image_is_decoded_once_for_each_way_of_preparing_it(
    client: httpx.Client, fakes: FakeServices
) -> None:
    before = fakes.decoder.runs
    ask(client, "/v1/classify?model=squeezenet&model=pets&model=small")
    (together,) = fakes.dispatcher.together
    images = dict(together)
    assert images["squeezenet"] == images["pets"] != images["small"]
    assert fakes.decoder.runs - before <= 2


def test_a_bad_image_of_several_is_an_error_of_each_model(client: httpx.Client) -> None:
    files = [("image", ("a", b"text", "image/png")), ("image", ("b", gray_png(7), "image/png"))]
    for one in ask(client, files=files)["models"]:
        assert one["results"][0]["error"]["code"] == "invalid_image"
        assert one["results"][1]["predictions"][0]["index"] == 7
    answer = client.post(BOTH, files={"image": ("a", b"text", "image/png")})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_image")


@pytest.mark.parametrize(
    "error", [QueueFull("Full.", retry_after=3), NoWorker("Gone."), ModelNotReady("Not yet.")]
)
def test_what_one_model_cannot_do_now_is_its_answer(
    client: httpx.Client, fakes: FakeServices, error: OpsinError
) -> None:
    fakes.dispatcher.fails_for = {"squeezenet": error}
    body = ask(client)
    assert body["models"][0] == {
        "model": "squeezenet",
        "version": 1,
        "error": {"code": error.code, "detail": error.detail},
    }
    assert body["model"] == body["models"][1]["model"] == "pets"
    fakes.dispatcher.fails_for["pets"] = NoWorker("Gone too.")
    answer = client.post(BOTH, content=gray_png(), headers=PNG)
    assert answer.status_code == error.meaning.status
    assert answer.json()["code"] == error.code


def test_a_model_that_is_still_loading_is_an_error_of_its_own(
    client: httpx.Client, fakes: FakeServices
) -> None:
    fakes.workers.others["pets"] = ModelNotReady("It is still loading.", retry_after=5)
    body = ask(client)
    assert body["models"][1] == {
        "model": "pets",
        "error": {"code": "model_not_ready", "detail": "It is still loading."},
    }


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("model=squeezenet&model=nope", 404, "model_not_found"),
        ("model=squeezenet&model=pets&model=", 422, "validation_error"),
        ("model=squeezenet&model=" + "x" * 65, 422, "validation_error"),
        ("model=squeezenet&model=pets&top_k=0", 422, "validation_error"),
        ("&".join(f"model=m{number}" for number in range(17)), 422, "validation_error"),
    ],
)
def test_a_wrong_request_fails_as_a_whole(
    client: httpx.Client, fakes: FakeServices, query: str, status: int, code: str
) -> None:
    answer = client.post(f"/v1/classify?{query}", content=gray_png(), headers=PNG)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert not fakes.dispatcher.together


def test_images_times_models_are_bounded(
    client: httpx.Client, fakes: FakeServices, settings: Settings
) -> None:
    files = [
        ("image", (str(number), gray_png(), "image/png"))
        for number in range(settings.max_images // 2 + 1)
    ]
    answer = client.post(BOTH, files=files)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert f"count as {2 * len(files)}" in answer.json()["detail"]
    assert not fakes.dispatcher.together
    ask(client, files=files[:-1])


def test_a_job_has_one_model(client: httpx.Client, fakes: FakeServices) -> None:
    headers = PNG | {"Prefer": "respond-async"}
    answer = client.post(BOTH, content=gray_png(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert not fakes.jobs.submitted


def test_what_one_model_alone_needs_is_its_error(client: httpx.Client, fakes: FakeServices) -> None:
    """Such as one face in the image, for a version that was trained on portraits."""
    spec: dict[str, Any] = {"subjects": ["sub_1", "sub_2"]}
    trained = SERVED.manifest.provenance.model_copy(update={"spec": spec})
    fakes.workers.others["pets"] = served("pets", provenance=trained)
    Record.metadata.create_all(fakes.faces.engine)
    body = ask(client, content=gray_png(NO_FACE), headers=PNG)
    assert body["models"][1]["error"]["code"] == "no_face"
    assert body["models"][0]["results"][0]["predictions"][0]["index"] == 0
    fakes.workers.finds_faces = False
    fakes.workers.others[FACE_MODEL] = NoWorker("Gone.")
    body = ask(client)
    assert body["models"][1]["error"]["code"] == "no_worker"
    assert body["models"][0]["results"]
