import gzip
import socket
from urllib.parse import urlsplit

import httpx
import pytest

from contracts.settings import Settings
from service.http.body import max_request_bytes

FORM = {"Content-Type": "multipart/form-data; boundary=b"}


def test_a_declared_length_is_refused_before_a_byte_is_read(
    client: httpx.Client, settings: Settings
) -> None:
    address = urlsplit(str(client.base_url))
    with socket.create_connection((address.hostname, address.port), timeout=60) as wire:
        length = max_request_bytes(settings) + 1
        wire.sendall(
            b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
            b"Content-Length: %d\r\n\r\n" % length
        )
        answer = wire.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"application/problem+json" in answer


@pytest.mark.parametrize("chunked", [True, False])
def test_a_form_over_the_limit(client: httpx.Client, settings: Settings, chunked: bool) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    data = part + bytes(max_request_bytes(settings))
    content = iter([data[:1000], data[1000:]]) if chunked else data
    answer = client.post("/v1/classify", content=content, headers=FORM)
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("path", ["/v1/filters", "/v1/faces/challenges", "/v1/keys"])
@pytest.mark.parametrize("content_type", ["application/json", "Application/Vnd.x+JSON; charset=x"])
def test_json_is_parsed_only_if_it_is_short(
    client: httpx.Client, path: str, content_type: str
) -> None:
    body = b'{"model": [' + b"[]," * 400_000 + b"[]]}"
    for headers, sent in (({}, body), ({"Content-Encoding": "gzip"}, gzip.compress(body))):
        answer = client.post(path, content=sent, headers={"Content-Type": content_type} | headers)
        assert answer.status_code == 413
        assert "1,048,576 bytes" in answer.text
        assert "Send images as they are" in answer.text


def test_a_tensor_in_json_may_be_long(client: httpx.Client) -> None:
    pixels = b"[" + b"0," * (8 * 224 * 224 * 3 - 1) + b"0]"
    body = b'{"inputs": [{"name": "image", "shape": [8, 224, 224, 3], "datatype": "UINT8", '
    answer = client.post(
        "/v2/models/squeezenet/infer",
        content=body + b'"data": ' + pixels + b"}]}",
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code != 413


@pytest.mark.parametrize("path", ["/v1/filters", "/v1/faces/challenges", "/v1/keys"])
def test_json_of_many_values_is_not_checked_one_by_one(client: httpx.Client, path: str) -> None:
    """The framework makes an error of each that is wrong: 10,000 take 30 ms, alone."""
    for count, status in ((900, 422), (1100, 413)):
        body = {f"a{number}": 0 for number in range(count)}
        assert client.post(path, json=body).status_code == status


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/faces/subjects", {"name": "Ada", "metadata": {"n": [1] * 8000}}),
        ("PATCH", "/v1/faces/subjects/sub_none", {"metadata": {"n": [1] * 8000}}),
        ("PUT", "/v1/faces/policy", {"retention_text": "a," * 9000}),
        ("POST", "/v1/trainings", {"classes": ["Doe, A"] * 1000, "class_weights": "auto"}),
        ("POST", "/v1/sweeps", {"training": {"classes": ["Doe, A"] * 1000}, "grid": {}}),
    ],
)
def test_what_may_have_many_values_may_be_sent(
    client: httpx.Client, method: str, path: str, body: dict[str, object]
) -> None:
    assert client.request(method, path, json=body).status_code != 413
    many = body | {"more": [0] * 10_000}
    assert client.request(method, path, json=many).status_code == 413


def test_parameters_of_a_url_are_counted(client: httpx.Client) -> None:
    for path, count, status in (
        ("/v1/jobs", 90, 422),
        ("/v1/jobs", 110, 400),
        ("/healthz", 110, 400),
    ):
        query = "&".join(f"{number}=" for number in range(count))
        assert client.get(f"{path}?{query}").status_code == status
