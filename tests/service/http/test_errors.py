import errno

import httpx
import pytest

from contracts.errors import CODES
from contracts.problem import Problem
from contracts.suggestions import MAX_COMPARED, MAX_ERRORS
from models.datasets.store import DatasetStore


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/models//", 404, "not_found"),
        ("GET", "/v1/jobs/none", 404, "job_not_found"),
        ("GET", "/v1/models/none", 404, "model_not_found"),
        ("PUT", "/v1/classify", 405, "method_not_allowed"),
        ("GET", "/v1/jobs?limit=0&state=lost", 422, "validation_error"),
    ],
)
def test_every_error_has_one_shape(
    client: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = Problem.model_validate(answer.json())
    assert (problem.status, problem.code) == (status, code)
    assert problem.title == CODES[code].title
    assert problem.type == f"urn:opsin:problem:{code}"
    assert problem.request_id == answer.headers["X-Request-Id"]
    assert ("errors" in answer.json()) == (code == "validation_error")


def test_a_validation_error_names_each_value(client: httpx.Client) -> None:
    errors = client.get("/v1/jobs?limit=0&state=lost").json()["errors"]
    assert [e["loc"] for e in errors] == [["query", "state"], ["query", "limit"]]
    assert all(e["msg"] for e in errors)


def test_thousands_of_unknown_fields_are_answered_at_once(client: httpx.Client) -> None:
    body = {f"subject_i{number}": 1 for number in range(900)}
    answer = client.post("/v1/faces/challenges", json=body)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["loc"] == ["body"]
    assert "at most 100 fields, not 900" in error["msg"]


@pytest.mark.parametrize("path", ["/v1/filters", "/v1/trainings", "/v1/sweeps"])
def test_the_first_of_many_misspelt_names_are_compared(client: httpx.Client, path: str) -> None:
    names = {f"model{number}": 1 for number in range(50)}
    body = {"training": names, "grid": {"seed": [1]}} if path == "/v1/sweeps" else names
    errors = client.post(path, json=body).json()["errors"]
    told = [error["msg"] for error in errors if "There is no such field" in error["msg"]]
    assert len(told) == 50
    assert 0 < sum("Did you mean model" in message for message in told) <= MAX_COMPARED


def test_many_wrong_values_are_not_all_told(client: httpx.Client) -> None:
    weights = {f"class{number}": "heavy" for number in range(900)}
    answer = client.post("/v1/trainings", json={"class_weights": weights})
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == MAX_ERRORS


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/classify", "POST"),
        ("PATCH", "/v1/jobs/none", "GET, HEAD, DELETE"),
        ("DELETE", "/healthz", "GET, HEAD"),
    ],
)
def test_a_405_names_every_method_of_the_path(
    client: httpx.Client, method: str, path: str, allowed: str
) -> None:
    assert client.request(method, path).headers["Allow"] == allowed


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/filters", b'{"layer":"\\ud800"}', "validation_error"),
        ("/v1/filters", b'{"version":"\\udfff","layer":"conv1"}', "validation_error"),
        ("/v1/filters", b'{"\\ud800":1}', "validation_error"),
        ("/v1/datasets", b'{"name":"\\ud800"}', "validation_error"),
    ],
)
def test_a_lone_surrogate_is_a_validation_error(
    client: httpx.Client, path: str, body: bytes, code: str
) -> None:
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (CODES[code].status, code)


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/octet-stream"]
)
def test_json_under_another_type_is_415(steady: httpx.Client, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    body = b'{"model": "squeezenet", "layer": "conv1", "filters": [0]}'
    for path in ("/v1/filters", "/v1/models/squeezenet/aliases", "/v1/trainings", "/v1/datasets"):
        answer = steady.post(path, content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type"), path
        assert "application/json" in answer.json()["detail"]


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/merge+json"])
def test_json_types_are_read(steady: httpx.Client, kind: str) -> None:
    answer = steady.post("/v1/filters", content=b"[]", headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")


def test_no_body_at_all_is_a_missing_value(steady: httpx.Client) -> None:
    answer = steady.post("/v1/filters")
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")


@pytest.mark.parametrize(
    ("number", "status"), [(errno.ENOSPC, 503), (errno.EROFS, 503), (errno.EIO, 500)]
)
def test_a_full_disk_is_no_internal_error(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(number, "of the test")

    monkeypatch.setattr(DatasetStore, "create", full)
    assert client.post("/v1/datasets", json={"name": "pets"}).status_code == status
