"""Many uploads at once, on real sockets: what they take together is bounded."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from urllib.parse import urlsplit

import httpx
import pytest

from contracts.settings import MIB, Settings
from tests.service.parts import House, picture

PNG = {"Content-Type": "image/png"}
Served = Callable[[Settings, House], AbstractContextManager[str]]


@pytest.fixture
def narrow(served: Served, house: House) -> Iterator[httpx.Client]:
    settings = Settings(_env_file=None, upload_budget_mb=1, max_image_bytes=4 * MIB, max_images=2)
    with served(settings, house) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


def begun(client: httpx.Client, length: int) -> socket.socket:
    """An upload that was announced, and of which nothing more comes."""
    address = urlsplit(str(client.base_url))
    wire = socket.create_connection((address.hostname, address.port), timeout=10)
    wire.sendall(
        b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
        b"Content-Length: %d\r\n\r\nx" % length
    )
    return wire


def eventually(client: httpx.Client, status: int, body: bytes) -> httpx.Response:
    until = time.monotonic() + 10
    while True:
        answer = client.post("/v1/classify", content=body, headers=PNG)
        if answer.status_code == status:
            return answer
        assert time.monotonic() < until
        time.sleep(0.05)


def test_what_would_go_over_it_is_refused_at_once_and_taken_later(narrow: httpx.Client) -> None:
    body = picture() + bytes(600_000)
    with begun(narrow, 600_000):
        answer = eventually(narrow, 429, body)
        assert answer.json()["code"] == "queue_full"
        assert int(answer.headers["Retry-After"]) >= 1
        # What needs no memory is answered all the while.
        assert narrow.get("/v1/models").status_code == 200
    assert eventually(narrow, 200, body).json()["model"] == "squeezenet"


def test_one_alone_is_always_taken(narrow: httpx.Client) -> None:
    body = picture() + bytes(3 * MIB)
    assert narrow.post("/v1/classify", content=body, headers=PNG).status_code == 200


def test_an_undeclared_length_counts_as_it_comes(narrow: httpx.Client) -> None:
    with begun(narrow, 900_000):
        eventually(narrow, 429, picture() + bytes(600_000))
        chunks = iter([picture(), *([bytes(50_000)] * 20)])
        answer = narrow.post("/v1/classify", content=chunks, headers=PNG)
        assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")


def test_nothing_stays_taken(narrow: httpx.Client) -> None:
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(begun(narrow, 300_000))
        eventually(narrow, 429, bytes(600_000))
    for _ in range(5):
        eventually(narrow, 200, picture() + bytes(600_000))
