"""Requests that ask for another protocol, on real sockets: served over HTTP/1.1, body included."""

import http.client
import io
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.settings import Settings
from service.server import server_config
from tests.service.conftest import PromptServer
from tests.service.parts import FakeServices, gray_png

H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def port(fakes: FakeServices) -> Iterator[int]:
    settings = Settings(_env_file=None)
    server = PromptServer(server_config(settings, fakes.open_services))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(timeout=30)


def classify(headers: bytes, body: bytes) -> bytes:
    return (
        b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
        + headers
        + b"\r\n"
        + body
    )


def length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(body)


def chunked(body: bytes) -> bytes:
    half = len(body) // 2
    parts = (body[:half], body[half:], b"")
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def responses(port: int, sent: list[bytes]) -> list[tuple[int, bytes]]:
    """Every response on one connection, of which the client closes its half after sending."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as wire:
        for part in sent:
            wire.sendall(part)
        wire.shutdown(socket.SHUT_WR)
        received = b""
        while part := wire.recv(65536):
            received += part
    stream = io.BytesIO(received)

    class Replay:
        def makefile(self, *_: object) -> io.BytesIO:
            return stream

    stream.close = lambda: None  # type: ignore[method-assign]
    found = []
    while stream.tell() < len(received):
        response = http.client.HTTPResponse(Replay())  # type: ignore[arg-type]
        response.begin()
        found.append((response.status, response.read()))
    return found


PNG = gray_png()


@pytest.mark.parametrize(
    "request_",
    [
        classify(H2C + length(PNG), PNG),
        classify(
            H2C.replace(b"Upgrade: h2c", b"uPGRADE : h2c").replace(b" :", b":") + length(PNG), PNG
        ),
        classify(H2C.replace(b"h2c", b"websocket") + length(PNG), PNG),
        classify(H2C + b"Transfer-Encoding: chunked\r\n", chunked(PNG)),
    ],
    ids=["length", "spelling", "websocket", "chunked"],
)
@pytest.mark.parametrize("piece", [1 << 20, 7, 1], ids=["whole", "sevens", "bytes"])
def test_a_body_is_read_as_the_body_and_the_connection_goes_on(
    port: int, request_: bytes, piece: int
) -> None:
    sent = request_ + HEALTH
    parts = [sent[start : start + piece] for start in range(0, len(sent), piece)]
    found = responses(port, parts)
    assert [status for status, _ in found] == [200, 200]
    assert b"predictions" in found[0][1]


def test_a_request_in_a_body_is_not_parsed(port: int) -> None:
    smuggled = b"GET /v1/system HTTP/1.1\r\nHost: localhost\r\n\r\n"
    found = responses(port, [classify(H2C + length(smuggled), smuggled)])
    assert [status for status, _ in found] in ([422], [415])


def test_without_a_body(port: int) -> None:
    request = HEALTH.replace(b"Host:", H2C + b"Host:")
    assert [status for status, _ in responses(port, [request + HEALTH])] == [200, 200]


def test_thousands_in_one_piece_are_all_answered(
    port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    found = responses(port, [request * 1500])
    assert [status for status, _ in found] == [200] * 1500
    output = capfd.readouterr()
    assert "Error" not in output.out + output.err


def test_connect_with_a_body_is_refused_and_closed(port: int) -> None:
    request = b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n" + length(HEALTH) + b"\r\n"
    assert [status for status, _ in responses(port, [request + HEALTH])] == [400]


def test_a_url_without_a_path_is_refused(port: int) -> None:
    answers = responses(port, [b"GET http://x HTTP/1.1\r\nHost: a\r\n\r\n"])
    assert [status for status, _ in answers] == [400]


def test_a_malformed_request_is_not_answered_in_place_of_the_one_before_it(port: int) -> None:
    pathless = b"GET http://x HTTP/1.1\r\nHost: a\r\n\r\n"
    answers = responses(port, [HEALTH + pathless])
    assert [status for status, _ in answers] in ([], [200])


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_javas_own_client_with_its_defaults(port: int, tmp_path: Path) -> None:
    """It offers HTTP/2 with every first request, and sends no type with a body."""
    java = shutil.which("java")
    listed = [java or "java", "--list-modules"]
    if java is None or "jdk.compiler" not in subprocess.check_output(listed, text=True):
        pytest.skip("needs Java with its compiler; on Debian: apt install default-jdk-headless")
    (tmp_path / "a.png").write_bytes(PNG)
    program = str(Path(__file__).with_name("Upload.java"))
    command = [java, program, f"http://127.0.0.1:{port}/v1/classify", str(tmp_path / "a.png")]
    output = subprocess.check_output(command, text=True, timeout=150)
    assert output.splitlines() == ["200 true"] * 3
