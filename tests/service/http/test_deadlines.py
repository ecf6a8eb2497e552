import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest

from tests.service.parts import FakeServices, gray_png

PNG = {"Content-Type": "image/png"}


def test_the_wait_ends_with_the_deadline(client: httpx.Client, fakes: FakeServices) -> None:
    fakes.dispatcher.delay = 30
    started = time.monotonic()
    headers = PNG | {"X-Timeout-Ms": "1000"}
    answer = client.post("/v1/classify", content=gray_png(), headers=headers)
    assert time.monotonic() - started < 20
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    assert "1000 ms" in answer.json()["detail"]
    assert fakes.dispatcher.cancelled == 1


def test_reading_the_body_counts_towards_the_deadline(client: httpx.Client) -> None:
    address = urlsplit(str(client.base_url))
    with socket.create_connection((address.hostname, address.port), timeout=60) as wire:
        wire.sendall(
            b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
            b"Content-Length: 100\r\nX-Timeout-Ms: 200\r\n\r\nonly this"
        )
        assert wire.recv(65536).startswith(b"HTTP/1.1 504")


@pytest.mark.parametrize("sent", ["0", "-1", "soon", "1.5", "600001", "99999999999999999999"])
def test_an_invalid_deadline_is_refused(client: httpx.Client, sent: str) -> None:
    headers = PNG | {"X-Timeout-Ms": sent}
    answer = client.post("/v1/classify", content=gray_png(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    if len(sent) > 5:
        assert "600000" in answer.json()["detail"]


def test_a_client_that_hangs_up_stops_the_work(client: httpx.Client, fakes: FakeServices) -> None:
    fakes.dispatcher.delay = 30
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/classify", content=gray_png(), headers=PNG, timeout=2)
    until = time.monotonic() + 30
    while not fakes.dispatcher.cancelled and time.monotonic() < until:
        time.sleep(0.01)
    assert fakes.dispatcher.cancelled == 1


def test_a_client_that_hangs_up_while_sending_does_no_harm(client: httpx.Client) -> None:
    address = urlsplit(str(client.base_url))
    with socket.create_connection((address.hostname, address.port), timeout=60) as wire:
        wire.sendall(
            b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
            b"Content-Length: 100\r\n\r\nonly this"
        )
    assert client.get("/healthz").status_code == 200
