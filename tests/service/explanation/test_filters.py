"""`/v1/filters` over HTTP, up to the job that waits."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest

from contracts.settings import Settings
from tests.service.parts import FakeServices


@pytest.fixture
def promoted(with_layers: FakeServices) -> FakeServices:
    with_layers.store.promote("squeezenet", 1)
    return with_layers


def post(client: httpx.Client, key: str | None = None, **body: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/v1/filters", json=body, headers=headers)


def test_default_model_is_the_first_that_is_ready(
    settings: Settings,
    with_layers: FakeServices,
    served: Callable[..., AbstractContextManager[str]],
) -> None:
    settings = settings.model_copy(
        update={"models": ("vgg16", "squeezenet")}
    )  # only parameter is ready
    with served(settings, with_layers) as url:
        answer = httpx.post(f"{url}/v1/filters", json={"layer": "conv1", "version": 1})
    assert answer.status_code == 202
    _, request, _ = with_layers.jobs.worked[-1]
    assert (request["model"], request["version"]) == ("squeezenet", 1)


def test_job_has_its_model_and_version_resolved(
    client: httpx.Client, promoted: FakeServices
) -> None:
    answer = post(client, version="champion", filters=[511, 0])
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/v1/jobs/{answer.json()['id']}"
    kind, request, _ = promoted.jobs.worked[-1]
    assert kind == "filters"
    assert (request["model"], request["version"]) == ("squeezenet", 1)
    assert (request["layer"], request["filters"]) == (None, [511, 0])
    assert promoted.jobs.clients == ["address 127.0.0.1"]


@pytest.mark.parametrize(
    "body",
    [
        {"filters": [512]},
        {"filters": [10**30]},
        {"filters": [0, 64], "layer": "conv1"},
        {"filters": [-1]},
        {"filters": [True]},
        {"filters": ["1"]},
        {"filters": []},
        {"version": True},
        {"version": ""},
        {"layer": ""},
        {"layer": "\u0000"},
        {"layer": "predictions"},
        {"image_size": 513},
    ],
)
def test_impossible_request_is_refused_at_once(
    client: httpx.Client, promoted: FakeServices, body: dict[str, Any]
) -> None:
    answer = post(client, **body)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert promoted.jobs.worked == []


def test_error_states_the_valid_filters(client: httpx.Client, promoted: FakeServices) -> None:
    assert "'fire9_concat' has 512, numbered 0 to 511" in post(client, filters=[512]).text
    assert post(client, layer="fire99").json()["code"] == "layer_not_found"


def test_repeated_key_returns_the_first_job_after_an_alias_moved(
    client: httpx.Client, promoted: FakeServices
) -> None:
    first = post(client, "k1", model="squeezenet", filters=[3])
    folder = promoted.store._folder("squeezenet")
    folder.rename(folder.with_name("elsewhere"))
    again = post(client, "k1", filters=[3], model="squeezenet")
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    assert again.headers["Location"] == first.headers["Location"]
    assert len(promoted.jobs.worked) == 1
    assert post(client, "k1", model="squeezenet", filters=[4]).status_code == 409
    assert post(client, "k2", model="squeezenet", filters=[3]).status_code == 404


def test_key_is_documented_without_a_preference(client: httpx.Client) -> None:
    parameters = client.get("/openapi.json").json()["paths"]["/v1/filters"]["post"]["parameters"]
    (key,) = [parameter for parameter in parameters if parameter.get("name") == "Idempotency-Key"]
    assert "respond-async" not in key["description"]
