"""Many uploads at once on real sockets: their total memory is bounded."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import pytest

from contracts.keys import NewKey
from contracts.settings import MIB, Settings
from database.audit import COMMAND
from tests.service.parts import FakeServices, gray_png

PNG = {"Content-Type": "image/png"}
StartService = Callable[[Settings, FakeServices], AbstractContextManager[str]]


@dataclass(frozen=True)
class Narrow:
    """A service with a budget of 1 MiB, of which each client may hold half."""

    client: httpx.Client
    keys: list[str]

    def begun(self, who: int, length: int, sent: int) -> socket.socket:
        """An upload that was announced and then stalls."""
        address = urlsplit(str(self.client.base_url))
        wire = socket.create_connection((address.hostname, address.port), timeout=60)
        wire.sendall(
            b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
            b"X-API-Key: %s\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n"
            % (self.keys[who].encode(), length)
        )
        assert b" 100 " in wire.recv(100)  # the service is reading
        wire.sendall(bytes(sent))
        time.sleep(1)  # bytes count as they arrive, and one that arrives late would be refused
        return wire

    def send(self, who: int, body: bytes | Iterator[bytes]) -> httpx.Response:
        headers = PNG | {"X-API-Key": self.keys[who]}
        return self.client.post("/v1/classify", content=body, headers=headers)

    def eventually(self, who: int, status: int, body: bytes) -> httpx.Response:
        until = time.monotonic() + 60
        while True:
            answer = self.send(who, body)
            if answer.status_code == status:
                return answer
            assert time.monotonic() < until
            time.sleep(0.05)


@pytest.fixture
def narrow(served: StartService, fakes: FakeServices) -> Iterator[Narrow]:
    table = fakes.with_keys()
    new = NewKey(name="a client", scopes=["infer"])
    keys = [table.create(new, actor=COMMAND).key or "" for _ in range(3)]
    settings = Settings(_env_file=None, upload_budget_mb=1, max_image_bytes=4 * MIB, max_images=2)
    with served(settings, fakes) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield Narrow(client, keys)


def of(size: int) -> bytes:
    """An image with that many bytes appended."""
    return gray_png() + bytes(size)


def test_an_upload_over_the_budget_is_refused_and_accepted_later(narrow: Narrow) -> None:
    with narrow.begun(0, 500_000, 400_000), narrow.begun(1, 500_000, 400_000):
        answer = narrow.eventually(2, 429, of(300_000))
        assert answer.json()["code"] == "queue_full"
        assert int(answer.headers["Retry-After"]) >= 1
        # Requests without a body are answered meanwhile.
        headers = {"X-API-Key": narrow.keys[2]}
        assert narrow.client.get("/v1/models", headers=headers).status_code == 200
    assert narrow.eventually(2, 200, of(300_000)).json()["model"] == "squeezenet"


def test_announced_bytes_do_not_count(narrow: Narrow) -> None:
    """Otherwise two slow requests with large declared lengths would shut everyone out."""
    with ExitStack() as stack:
        for who in (0, 0, 1, 1):
            stack.enter_context(narrow.begun(who, 500_000, 1))
        time.sleep(0.5)
        assert narrow.send(2, of(450_000)).status_code == 200


def test_one_client_may_hold_half_of_the_budget(narrow: Narrow) -> None:
    with narrow.begun(0, 500_000, 400_000):
        assert narrow.eventually(0, 429, of(200_000)).json()["code"] == "queue_full"
        assert narrow.send(1, of(450_000)).status_code == 200


def test_a_single_upload_is_always_accepted(narrow: Narrow) -> None:
    assert narrow.send(0, of(3 * MIB)).status_code == 200


def test_an_undeclared_length_counts_as_it_arrives(narrow: Narrow) -> None:
    with narrow.begun(0, 500_000, 400_000):
        narrow.eventually(0, 429, of(200_000))
        chunks = iter([gray_png(), *([bytes(50_000)] * 20)])
        answer = narrow.send(1, chunks)
        assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")


def test_all_bytes_are_released(narrow: Narrow) -> None:
    with ExitStack() as stack:
        for who in range(3):
            stack.enter_context(narrow.begun(who, 400_000, 300_000))
        narrow.eventually(0, 429, of(300_000))
    for _ in range(5):
        narrow.eventually(0, 200, of(500_000))
