"""What the contract says of all operations, asked of each one that the document has."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from service.app import create_app
from tests.openapi.document import _no_services, document
from tests.service import world as worlds
from tests.service.conftest import listening
from tests.service.parts import FakeServices
from tests.service.world import JOB, KEY, Operation, Sent, World, operations
from tests.valkey import RealValkey

# POSTs whose repetition changes nothing anyway, or must not return the first response.
_WITHOUT_KEY = {
    "set_alias": "points a name to a version; repeated, it points there still",
    "create_session": "a repetition would return the secret of the first cookie",
}
# Those on images that have no job: what they find out about a person is not stored.
_NEVER_DEFERRED = {"verify_faces", "identify_faces", "login_by_face"}
# Lists that have an end: a network's layers, and at most sixteen devices of a subject.
_WHOLE_LISTS = {"list_layers", "list_devices"}
_GET = operations("GET")
PNG = {"Content-Type": "image/png"}
_BODIES = [operation for operation in operations() if operation.body_types]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="module")
def fakes(folder: Path, valkey_server: RealValkey) -> FakeServices:
    with redis.Redis.from_url(valkey_server.url) as store:
        store.flushall()
    return worlds.empty_services(folder, valkey_server.url)


@pytest.fixture(scope="module")
def world(folder: Path, fakes: FakeServices) -> Iterator[World]:
    with (
        pytest.MonkeyPatch.context() as patch,
        listening(worlds.settings(folder), fakes) as url,
        httpx.Client(base_url=url, headers={"X-API-Key": KEY}, timeout=60) as client,
    ):
        patch.setattr("service.training.submit.check_weights", lambda *_: None)
        patch.setattr("service.create.submit.available_network", lambda *_: "vgg16")
        patch.setattr("service.create.submit.Weights.find", lambda *_: None)
        yield worlds.fill(client)


@pytest.fixture(scope="module")
def requests(world: World) -> dict[str, tuple[Sent, Sent]]:
    return {name: (one, other) for name, one, other in worlds.creating_requests(world)}


def test_every_post_that_creates_takes_an_idempotency_key() -> None:
    for operation in operations("POST"):
        creates = {"201", "202"} & set(operation.described["responses"])
        if creates and operation.id not in _WITHOUT_KEY:
            assert "Idempotency-Key" in operation.headers, operation
            assert "409" in operation.described["responses"], operation


def test_everything_that_is_computed_from_images_can_become_a_job() -> None:
    found = set()
    for operation in operations("POST"):
        form = operation.described.get("requestBody", {}).get("content", {})
        fields = form.get("multipart/form-data", {}).get("schema", {}).get("properties", {})
        if "image" in fields and "200" in operation.described["responses"]:
            found.add(operation.id)
            if operation.id not in _NEVER_DEFERRED:
                assert "Prefer" in operation.headers, operation
                assert "202" in operation.described["responses"], operation
    assert found > _NEVER_DEFERRED


def test_every_list_has_pages() -> None:
    schemas = document()["components"]["schemas"]
    lists = set()
    for operation in _GET:
        content = operation.described["responses"].get("200", {}).get("content", {})
        name = content.get("application/json", {}).get("schema", {}).get("$ref", "").split("/")[-1]
        if "items" in schemas.get(name, {}).get("properties", {}):
            lists.add(operation.id)
            if operation.id not in _WHOLE_LISTS:
                assert {"limit", "cursor"} <= operation.parameters, operation
                assert "next_cursor" in schemas[name]["properties"], operation
    assert lists > _WHOLE_LISTS


def keyed() -> list[Operation]:
    return [one for one in operations("POST") if "Idempotency-Key" in one.headers]


@pytest.mark.parametrize("operation", keyed(), ids=lambda one: one.id)
def test_a_repeated_key_returns_the_first_response(
    world: World,
    fakes: FakeServices,
    requests: dict[str, tuple[Sent, Sent]],
    operation: Operation,
) -> None:
    assert operation.id in requests, "add it to `creating_requests`"
    one, other = requests[operation.id]
    url, jobs = world.url(operation), len(fakes.jobs.clients)

    def send(sent: Sent) -> httpx.Response:
        headers = sent.get("headers", {}) | {"Idempotency-Key": operation.id}
        return world.client.post(url, **sent | {"headers": headers})

    first, again = send(one), send(one)
    assert first.status_code in {201, 202}, first.text
    assert first.headers.get("Location") == again.headers.get("Location")
    if operation.id in {"create_key", "rotate_key"}:
        assert again.json() == first.json() | {"key": None}  # a secret is shown once
    else:
        assert again.json() == first.json()
    assert again.status_code == first.status_code
    conflict = send(other)
    assert (conflict.status_code, conflict.json()["code"]) == (409, "idempotency_conflict")
    assert None not in fakes.jobs.clients[jobs:], "each takes one of its client's places"


@pytest.mark.parametrize("operation", _GET, ids=lambda one: one.id)
def test_head_and_one_slash_too_many(world: World, operation: Operation) -> None:
    url = world.url(operation)
    assert "{" not in url, "add the parameter to the world"
    with world.client.stream("GET", url) as get:
        assert get.status_code in {200, 204} or operation.id == "get_readiness", get.read()
    head, slash = world.client.head(url), world.client.head(f"{url}/")
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert (slash.status_code, slash.content) == (get.status_code, b"")
    assert head.headers.get("Content-Type") == get.headers.get("Content-Type")
    assert world.client.head(f"{url}//").status_code == 404


def test_pages_and_their_files_take_head_too(world: World) -> None:
    routes = create_app(worlds.settings(Path("unused")), _no_services).routes
    pages = {getattr(route, "path", "") for route in routes}
    hidden = {path for path in pages if path and "{" not in path}
    assert hidden >= {"/", "/docs", "/openapi.json"}
    for path in hidden:
        assert world.client.head(path).status_code == world.client.get(path).status_code, path


@pytest.mark.parametrize("operation", _BODIES, ids=lambda one: f"{one.method} {one.id}")
def test_every_body_may_be_compressed(world: World, operation: Operation) -> None:
    media_type = "application/json" if "application/json" in operation.body_types else "image/png"
    url, body = world.url(operation), b"{"
    headers = {"Content-Type": media_type}

    def send(content: bytes, **more: str) -> httpx.Response:
        return world.client.request(operation.method, url, content=content, headers=headers | more)

    plain, packed = send(body), send(gzip.compress(body), **{"Content-Encoding": "gzip"})
    assert plain.status_code >= 400
    assert packed.status_code == plain.status_code, packed.text
    unknown = send(body, **{"Content-Encoding": "compress"})
    assert unknown.status_code == 415
    assert "Content-Encoding" in unknown.text


@pytest.mark.parametrize(
    "operation",
    [one for one in _BODIES if one.body_types == {"multipart/form-data"}],
    ids=lambda one: one.id,
)
def test_an_image_in_json_where_a_form_is_wanted_is_told(
    world: World, operation: Operation
) -> None:
    query = {"label": "cat"} if "label" in operation.parameters else {}
    for sent in ({"json": {"image": "/9j/4AA="}}, {"content": b"\xff\xd8\xff", "headers": PNG}):
        url = world.url(operation)
        answer = world.client.request(operation.method, url, params=query, **sent)
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
        assert "curl -F " in answer.json()["detail"]
        assert "multipart/form-data" in answer.json()["detail"]


def files() -> list[Operation]:
    textual = {"application/json", "text/event-stream", "text/plain"}
    return [one for one in _GET if one.answer_types() - textual and one.id != "get_metrics"]


@pytest.mark.parametrize("operation", files(), ids=lambda one: one.id)
def test_a_file_has_an_etag_and_parts(world: World, operation: Operation) -> None:
    url = world.url(operation)
    whole = world.client.get(url)
    etag = whole.headers["ETag"]
    unchanged = world.client.get(url, headers={"If-None-Match": etag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    part = world.client.get(url, headers={"Range": "bytes=1-2"})
    assert (part.status_code, part.content) == (206, whole.content[1:3])
    beyond = world.client.get(url, headers={"Range": "bytes=999999999-"})
    assert (beyond.status_code, beyond.json()["status"]) == (416, 416)
    assert {"206", "304", "416"} <= set(operation.described["responses"])


def test_there_are_files() -> None:
    assert {one.id for one in files()} >= {"get_artifact", "get_thumbnail", "download_version"}
    assert JOB in World(httpx.Client(), {"job_id": JOB}).url(
        next(one for one in _GET if one.id == "get_artifact")
    )
