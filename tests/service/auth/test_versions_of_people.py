"""Every route that takes a version refuses one that recognizes people to keys without `faces`.

A route that is in neither of the two tables fails the first test.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from contracts.inference.manifest import Manifest, Provenance
from contracts.keys import SCOPES, NewKey
from contracts.settings import Settings
from database.audit import COMMAND
from models.store.labels import Label, write_labels
from service.app import create_app
from tests.models.drafts import DRAFT, write_files
from tests.service.conftest import listening
from tests.service.parts import SERVED, FakeServices, gray_png

SUBJECT = "sub_0123456789abcdefghij"
_VERSION = "/v1/models/{name}/versions/{version}"
_TENSOR = {"name": "image", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": [0] * 12}
_IMAGE: dict[str, Any] = {"files": {"image": gray_png()}}
_PIXELS: dict[str, Any] = {"json": {"instances": [[[[0, 0, 0]] * 2] * 2]}}
_INFER: dict[str, Any] = {"json": {"inputs": [_TENSOR]}}
_DATASET: dict[str, Any] = {"json": {"dataset_id": "ds_none"}}

# What is sent to each route; the path's parameters are those of the version.
CLOSED: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/classify"): _IMAGE,
    ("POST", "/v1/embed"): _IMAGE,
    ("POST", "/v1/heatmap"): _IMAGE,
    ("POST", "/v1/activations"): _IMAGE,
    ("POST", "/v1/filters"): {"json": {"model": "door"}},
    ("POST", "/v1/dreams"): {"files": {"model": (None, b"door"), "image": gray_png()}},
    ("POST", "/v1/models/{model}:predict"): _PIXELS,
    ("POST", "/v1/models/{model}/versions/{version}:predict"): _PIXELS,
    ("POST", "/v1/models/{model}/labels/{label}:predict"): _PIXELS,
    ("POST", "/v2/models/{model}/infer"): _INFER,
    ("POST", "/v2/models/{model}/versions/{version}/infer"): _INFER,
    ("POST", "/v1/models/{name}/aliases"): {"json": {"alias": "door", "version": 1}},
    ("DELETE", "/v1/models/{name}/aliases/{alias}"): {},
    ("DELETE", _VERSION): {},
    ("GET", f"{_VERSION}/download"): {"params": {"format": "labels"}},
    ("POST", f"{_VERSION}/quantize"): _DATASET,
    ("POST", f"{_VERSION}/evaluations"): _DATASET,
}
_STATE = "says whether and how the model runs"
_SHAPES = "says the shapes of the input and the output, and of layers"
_NOTHING = "does nothing: the protocol has it, this server does not"
OPEN: dict[tuple[str, str], str] = {
    ("GET", "/readyz"): _STATE,
    ("GET", "/v1/models/{name}"): _STATE,
    ("GET", _VERSION): "leaves out who the version was trained on",
    ("GET", "/v1/models/{name}/layers"): _SHAPES,
    ("GET", "/v1/models/{model}/labels/{label}"): _STATE,
    ("GET", "/v1/models/{model}/metadata"): _SHAPES,
    ("GET", "/v1/models/{model}/versions/{version}/metadata"): _SHAPES,
    ("GET", "/v1/models/{model}/labels/{label}/metadata"): _SHAPES,
    **{
        (method, f"/v1/models/{{model}}{version}:{name}"): _NOTHING
        for method in ("GET", "POST")
        for version in ("", "/versions/{version}", "/labels/{label}")
        for name in ("classify", "regress", "explain")
    },
    **{
        ("GET", f"/v2/models/{{model}}{version}{name}"): reason
        for version in ("", "/versions/{version}")
        for name, reason in {
            "": _SHAPES,
            "/config": _SHAPES,
            "/ready": _STATE,
            "/stats": _STATE,
        }.items()
    },
    ("POST", "/v2/repository/models/{model}/load"): _STATE,
    ("POST", "/v2/repository/models/{model}/unload"): _NOTHING,
    ("GET", "/v2/models/{model}/trace/setting"): _NOTHING,
    ("POST", "/v2/models/{model}/trace/setting"): _NOTHING,
    ("POST", "/v1/trainings"): "goes on from no version that was trained on subjects, "
    "and test_routes has what it may promote",
}


def taking_a_version() -> set[tuple[str, str]]:
    """The methods and templates of all routes that take a model or a version, by any way."""
    app = create_app(Settings(_env_file=None), FakeServices().open_services)
    taking = set()
    for context in iter_route_contexts(app.routes):
        path = context.path or ""
        if re.search(r"/models/\{", path):
            taking |= {(method, path) for method in set(context.methods or ()) - {"HEAD"}}
    document = app.openapi()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            names = _inputs(document, operation)
            if names & {"model", "version", "from_version", "initial_weights", "against"}:
                taking.add((method.upper(), path))
    return taking


def _inputs(document: Any, operation: Any) -> set[str]:
    """The names of the parameters and of the fields of the body."""
    names = {_resolved(document, one)["name"] for one in operation.get("parameters", [])}
    body = _resolved(document, operation.get("requestBody", {}))
    contents = body.get("content", {}).values()
    return names.union(*(_fields(document, content["schema"]) for content in contents))


def _fields(document: Any, schema: Any) -> set[str]:
    schema = _resolved(document, schema)
    parts = [one for kind in ("allOf", "anyOf", "oneOf") for one in schema.get(kind, [])]
    return set(schema.get("properties", {})).union(*(_fields(document, part) for part in parts))


def _resolved(document: Any, part: Any) -> Any:
    while "$ref" in part:
        _, kind, name = part["$ref"].rsplit("/", 2)
        part = document["components"][kind][name]
    return part


def test_every_route_that_takes_a_version_is_in_a_table() -> None:
    assert not CLOSED.keys() & OPEN.keys()
    assert taking_a_version() == CLOSED.keys() | OPEN.keys()


def manifest_of(fakes: FakeServices) -> Manifest:
    """Publish version 1 of `door`, trained on a subject, with two aliases."""
    provenance = Provenance(
        spec={"subjects": [SUBJECT], "class_weights": {SUBJECT: 2.0}, "network": "face_cnn"}
    )
    with fakes.store.staging() as folder:
        write_files(folder)
        write_labels(folder, [Label(SUBJECT, SUBJECT), Label("sub_b", "sub_b")])
        fakes.store.publish("door", folder, DRAFT.model_copy(update={"provenance": provenance}))
    for alias in ("champion", "door"):
        fakes.store.promote("door", 1, alias)
    return fakes.store.manifest("door", 1)


@dataclass(frozen=True)
class Client:
    client: httpx.Client
    keys: dict[str, str]

    def send(self, method: str, template: str, who: str) -> httpx.Response:
        path = re.sub(r"\{(model|name|alias|label)\}", "door", template).replace("{version}", "1")
        headers = {"X-API-Key": self.keys[who]}
        return self.client.request(method, path, headers=headers, **CLOSED[method, template])


@pytest.fixture(scope="module")
def keyed() -> Iterator[Client]:
    fakes = FakeServices()
    table = fakes.with_keys()
    keys = {
        name: table.create(NewKey(name=name, scopes=scopes), actor=COMMAND).key or ""
        for name, scopes in {
            "others": ["infer", "train", "models"],
            "all": ["infer", "train", "models", "faces"],
        }.items()
    }
    version = replace(SERVED, manifest=manifest_of(fakes))
    fakes.workers.choose = lambda *_: (version, 1)  # type: ignore[method-assign]
    with (
        listening(Settings(_env_file=None), fakes) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield Client(client, keys)


@pytest.mark.parametrize(("method", "template"), CLOSED)
def test_a_version_that_recognizes_people_needs_the_scope_faces(
    keyed: Client, method: str, template: str
) -> None:
    refused = keyed.send(method, template, "others")
    assert (refused.status_code, "`faces`" in refused.text) == (403, True), refused.text
    assert SUBJECT not in refused.text


def test_a_key_with_all_scopes_is_not_refused(keyed: Client) -> None:
    """Last, since it changes the version."""
    deletions = [route for route in CLOSED if route[0] == "DELETE"]
    for method, template in [route for route in CLOSED if route not in deletions] + deletions:
        answer = keyed.send(method, template, "all")
        assert answer.status_code not in {401, 403}, (template, answer.text)


def test_an_alias_is_not_taken_away_from_a_version_of_people() -> None:
    fakes = FakeServices()
    table = fakes.with_keys()
    keys = {
        scopes: table.create(NewKey(name="n", scopes=list(scopes)), actor=COMMAND).key or ""
        for scopes in (("models",), ("models", "faces"))
    }
    manifest_of(fakes)
    with fakes.store.staging() as folder:
        write_files(folder)
        fakes.store.publish("door", folder, DRAFT)
    info = fakes.workers.models()[0].model_copy(update={"name": "door"})
    fakes.workers.models = lambda: [info]  # type: ignore[method-assign]
    with (
        listening(Settings(_env_file=None), fakes) as url,
        httpx.Client(base_url=url, timeout=20) as client,
    ):
        for (scopes, key), holder in zip(keys.items(), (1, 2), strict=True):
            sent = {"alias": "champion", "version": 2}
            answer = client.post("/v1/models/door/aliases", json=sent, headers={"X-API-Key": key})
            assert (answer.status_code == 403) is ("faces" not in scopes), answer.text
            assert fakes.store.aliases("door") == {"champion": holder, "door": 1}
        # Its own, of ordinary versions only.
        headers = {"X-API-Key": keys["models",]}
        sent = {"alias": "canary", "version": 2}
        answer = client.post("/v1/models/door/aliases", json=sent, headers=headers)
        assert answer.status_code in {200, 202}, answer.text
        assert client.delete("/v1/models/door/aliases/canary", headers=headers).status_code == 204


def test_a_manifest_names_no_subject_to_others() -> None:
    fakes = FakeServices()
    table = fakes.with_keys()
    keys = {
        scope: table.create(NewKey(name=scope, scopes=[scope]), actor=COMMAND).key or ""
        for scope in SCOPES
    }
    manifest_of(fakes)
    info = fakes.workers.models()[0].model_copy(update={"name": "door"})
    fakes.workers.models = lambda: [info]  # type: ignore[method-assign]
    with (
        listening(Settings(_env_file=None), fakes) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        for scope, key in keys.items():
            answer = client.get("/v1/models/door/versions/1", headers={"X-API-Key": key})
            named = scope in {"faces", "admin"}
            assert (answer.status_code, SUBJECT in answer.text) == (200, named), scope
            assert "face_cnn" in answer.text
