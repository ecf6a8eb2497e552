"""Slow and silent clients on real sockets: each connection is closed within its bound.

The bounds are those of the service, shortened; the asserted times are many times as long.
"""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import psutil
import pytest
import structlog
import uvicorn

from contracts.settings import Settings
from service.connections.connection_limits import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_PATH_BYTES,
    MAX_UNREAD_BYTES,
)
from service.server import server_config
from tests.service.conftest import PromptServer
from tests.service.parts import FakeServices, gray_png

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
UPLOAD = (
    b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    b"X-Timeout-Ms: 60000\r\n"
)
BOUND = 20.0  # seconds; far more than any bound below


@contextmanager
def impatient(fakes: FakeServices, **bounds: Any) -> Iterator[int]:
    """The service with short bounds; yields its port."""
    with impatient_server(fakes, **bounds) as (_, port):
        yield port


@contextmanager
def impatient_server(
    fakes: FakeServices,
    *,
    connections: int = 100,
    rate: int = 1000,
    look: float = 1.0,
    max_unread: int = MAX_UNREAD_BYTES,
) -> Iterator[tuple[uvicorn.Server, int]]:
    settings = Settings(
        _env_file=None,
        header_seconds=1,
        min_upload_rate=rate,
        max_connections=connections,
        max_image_bytes=20_000,
    )
    config = server_config(settings, fakes.open_services)
    config.http.check_seconds = look  # type: ignore[union-attr] # a class of ours
    config.http.max_unread = max_unread  # type: ignore[union-attr]
    server = PromptServer(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until(lambda: server.started)
            yield server, listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive()


@pytest.fixture
def port(fakes: FakeServices) -> Iterator[int]:
    with impatient(fakes) as port:
        yield port


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=BOUND)


def rest(wire: socket.socket) -> bytes:
    """Everything up to the end of the connection, which may be a reset."""
    found = b""
    try:
        while part := wire.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


def drip(wire: socket.socket, data: bytes, pause: float) -> float:
    """Send byte by byte until the connection is closed; returns the seconds it took."""
    began = time.monotonic()
    try:
        for at in range(len(data)):
            wire.sendall(data[at : at + 1])
            time.sleep(pause)
    except OSError:
        return time.monotonic() - began
    raise AssertionError("it was never let go")


def send_repeatedly(wire: socket.socket, data: bytes) -> None:
    for _ in range(256):
        wire.sendall(data)
        time.sleep(0.005)


def test_a_head_sent_byte_by_byte_is_closed(port: int) -> None:
    with connect(port) as wire:
        assert drip(wire, HEAD + b"X-Slow: " + b"a" * 2000, 0.1) < BOUND


def test_a_head_that_never_ends_is_answered_408(port: int) -> None:
    with connect(port) as wire:
        wire.sendall(HEAD)
        answer = rest(wire)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"application/problem+json" in answer


def test_the_second_head_of_a_connection_has_the_same_time(port: int) -> None:
    with connect(port) as wire:
        wire.sendall(HEAD + b"\r\n")
        assert wire.recv(65536).startswith(b"HTTP/1.1 200")
        wire.sendall(HEAD)
        assert rest(wire).startswith(b"HTTP/1.1 408")


def test_empty_lines_between_requests_do_not_hold_a_connection(port: int) -> None:
    with connect(port) as wire:
        wire.sendall(HEAD + b"\r\n")
        wire.recv(65536)
        assert drip(wire, b"\r\n" * 1000, 0.1) < BOUND


def test_a_silent_connection_is_closed(port: int) -> None:
    with connect(port) as wire:
        assert rest(wire) == b""


def test_an_endless_head_is_not_stored(port: int) -> None:
    with connect(port) as wire:
        wire.sendall(HEAD)
        sent = 0
        with pytest.raises(OSError):  # noqa: PT012
            while sent < 100 * MAX_HEAD_BYTES:
                wire.sendall(b"X-Long: " + b"a" * 10_000 + b"\r\n")
                sent += 10_000
                time.sleep(0.001)
    assert sent < 100 * MAX_HEAD_BYTES


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("more", [b"", b"Upgrade: h2c\r\nConnection: Upgrade\r\n"])
@pytest.mark.parametrize(
    ("head", "status", "detail"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * MAX_HEADERS, 431, b"128 headers"),
        (b"GET /%s HTTP/1.1\r\nHost: a\r\n" % (b":" * MAX_PATH_BYTES), 414, b"2 KiB"),
        (b"GET /%s? HTTP/1.1\r\nHost: a\r\n" % (b"a/" * 1024), 414, b"2 KiB"),
        (HEAD + b"X: %s\r\n" % (b"a" * (MAX_HEAD_BYTES + 1024)), 431, b"16 KiB"),
    ],
)
def test_a_head_is_bounded(
    port: int, head: bytes, status: int, detail: bytes, more: bytes, *, in_parts: bool
) -> None:
    sent = head.replace(b"Host: a\r\n", b"Host: a\r\n" + more) + b"\r\n"
    cut = len(sent) // 2 if in_parts else len(sent)
    with connect(port) as wire:
        wire.sendall(sent[:cut])
        time.sleep(0.1 * in_parts)
        wire.sendall(sent[cut:])
        answer = rest(wire)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert detail in answer


def test_a_head_within_the_bounds_is_read(port: int) -> None:
    query, long = b"a" * (MAX_PATH_BYTES * 2), b"a" * (MAX_HEAD_BYTES // 2)
    head = b"GET /healthz?%s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" % query
    head += b"X: %s\r\n" % long + b"a:\r\n" * (MAX_HEADERS - 3)
    with connect(port) as wire:
        wire.sendall(head + b"\r\n")
        assert rest(wire).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("kept", [0, 50])
def test_a_piece_of_many_requests_may_end_within_a_head(port: int, kept: int) -> None:
    image = gray_png()
    request = UPLOAD + b"Content-Length: %d\r\n\r\n" % len(image) + image
    sent = request * (90_000 // len(request)) + UPLOAD + b"Content-Length: %d\r\n" % len(image)
    with connect(port) as wire:
        wire.sendall(sent[: len(sent) - kept])
        time.sleep(0.2)
        wire.sendall(sent[len(sent) - kept :] + b"Connection: close\r\n\r\n" + image)
        answers = rest(wire)
    assert answers.count(b"HTTP/1.1 200") == 90_000 // len(request) + 1


def test_a_head_is_waited_for_while_this_side_does_not_read(port: int, fakes: FakeServices) -> None:
    """As requests wait for an answer that takes longer than a head may."""
    fakes.dispatcher.delay = 2.5
    image = gray_png()
    request = UPLOAD + b"Content-Length: %d\r\n\r\n" % len(image) + image
    with connect(port) as wire:
        wire.sendall(request)
        time.sleep(0.2)
        wire.sendall(request + UPLOAD)
        time.sleep(0.2)
        wire.sendall(b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(image) + image)
        assert rest(wire).count(b"HTTP/1.1 200") == 3


def test_endless_trailers_are_not_stored(port: int) -> None:
    with connect(port) as wire:
        wire.sendall(UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Late: b\r\n\r\n")
        assert wire.recv(65536).startswith(b"HTTP/1.1 422")


@pytest.mark.parametrize("path", [UPLOAD, HEAD.replace(b"GET", b"POST")], ids=["read", "refused"])
@pytest.mark.parametrize(
    ("begin", "again"),
    [
        (b"0\r\na:", b"x" * 4096),
        (b"0\r\n", b"a: b\r\n" * 512),
        (b"1\r\na\r\n1;", b"x" * 4096),
        (b"", b"1;%s\r\na\r\n" % (b"x" * 4096)),
        (b"", b"0" * 4096),
    ],
    ids=["a trailer", "trailers", "an extension", "extensions", "a size"],
)
def test_what_is_no_content_of_a_chunked_body_is_bounded(
    port: int, path: bytes, begin: bytes, again: bytes
) -> None:
    """The parser takes time with the square of a trailer's length."""
    with connect(port) as wire:
        wire.sendall(path + b"Transfer-Encoding: chunked\r\n\r\n" + begin)
        with pytest.raises(ConnectionError):
            send_repeatedly(wire, again)


def test_chunks_of_one_byte_are_accepted(port: int) -> None:
    """Their sizes take five times as much as their content."""
    body = b"".join(b"1\r\n%c\r\n" % byte for byte in gray_png(width=200, height=200) * 4)
    with connect(port) as wire:
        wire.sendall(UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n")
        assert wire.recv(65536).startswith((b"HTTP/1.1 200", b"HTTP/1.1 4"))
        wire.sendall(HEAD + b"\r\n")
        assert wire.recv(65536).startswith(b"HTTP/1.1 200"), "the connection goes on"


def test_a_body_sent_byte_by_byte_is_closed(port: int, fakes: FakeServices) -> None:
    with connect(port) as wire:
        wire.sendall(UPLOAD + b"Content-Length: 10000\r\n\r\n")
        assert drip(wire, bytes(10_000), 0.1) < BOUND
    assert fakes.dispatcher.asked == []


def test_the_rest_of_a_refused_body_is_not_taken_for_a_head(port: int) -> None:
    length = 100_000_000
    with connect(port) as wire:
        wire.sendall(UPLOAD + b"Content-Length: %d\r\n\r\n" % length)
        assert wire.recv(65536).startswith(b"HTTP/1.1 413")
        part = bytes(1_000_000)
        for _ in range(length // len(part)):
            wire.sendall(part)
        wire.sendall(HEAD + b"\r\n")
        assert wire.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_slow_upload_above_the_rate_is_accepted(port: int) -> None:
    data = gray_png(width=300, height=300)
    with connect(port) as wire:
        wire.sendall(UPLOAD + b"Content-Length: %d\r\n\r\n" % (len(data) + 3000))
        wire.sendall(data)
        for _ in range(6):  # 5,000 bytes per second, over several checks
            wire.sendall(bytes(500))
            time.sleep(0.1 if len(data) > 3000 else 0.05)
        assert wire.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("rate", "look", "max_unread"),
    [
        (100_000, 1.0, MAX_UNREAD_BYTES),
        # At this rate the data could wait an hour; a client that reads nothing is given one check.
        (100, 1.0, MAX_UNREAD_BYTES),
        # The total is too large long before the first check.
        (100, 600.0, 50_000),
    ],
)
def test_a_response_that_is_not_read_is_aborted(
    fakes: FakeServices, rate: int, look: float, max_unread: int
) -> None:
    """Thousands of pipelined requests, and no response is read."""
    with (
        impatient(fakes, rate=rate, look=look, max_unread=max_unread) as port,
        connect(port) as wire,
    ):
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        wire.settimeout(1)
        began = time.monotonic()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012
            while time.monotonic() - began < BOUND:
                try:
                    wire.sendall(request)
                except TimeoutError:
                    time.sleep(0.1)
        assert time.monotonic() - began < BOUND


def unread_tail(port: int, source: str = "127.0.0.1") -> socket.socket:
    """A connection that is closed by the server, but whose last answer is not read.

    Of 54 kB the kernel takes 6 to 24. Less is left than the event loop's limit of 64 KiB, above
    which writing is paused.
    """
    wire = socket.socket()
    # So that the kernel takes as little as possible of it.
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 88)
    wire.settimeout(BOUND)
    wire.bind((source, 0))
    wire.connect(("127.0.0.1", port))
    request = b"GET /unknown HTTP/1.1\r\nHost: localhost\r\n"
    wire.sendall((request + b"\r\n") * 89 + request + b"Connection: close\r\n\r\n")
    return wire


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def held(port: int) -> int:
    """The connections that the server, which is a thread here, has not closed."""
    connections = psutil.Process().net_connections("tcp")
    return sum(one.laddr.port == port and one.status != "LISTEN" for one in connections)


def test_the_unread_rest_of_an_answer_holds_no_connection(port: int) -> None:
    with structlog.testing.capture_logs() as lines, unread_tail(port):
        # Otherwise the test leaves too little unread.
        until(lambda: any(line["event"] == "slow_client_cut_off" for line in list(lines)))
        until(lambda: held(port) == 0)


def test_connections_with_an_unread_rest_count_and_make_room(fakes: FakeServices) -> None:
    with (
        impatient_server(fakes, connections=10, look=600) as (server, port),
        ExitStack() as stack,
    ):
        for _ in range(10):
            stack.enter_context(unread_tail(port, "127.0.0.2"))
        connections: Any = server.server_state.connections
        # Until the server has answered, and waited a second for the client to read.
        until(lambda: sum(one.is_stuck for one in list(connections)) == 10)
        assert held(port) == 10
        assert [is_served(port, "127.0.0.3") for _ in range(12)] == [True] * 12
        until(lambda: held(port) == 9)


def test_many_connections_that_are_being_closed_count_at_once(fakes: FakeServices) -> None:
    most = 0
    with impatient(fakes, connections=8, look=600) as port, ExitStack() as stack:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            stack.enter_context(unread_tail(port, "127.0.0.2"))
            time.sleep(0.05)
            most = max(most, held(port))
        time.sleep(0.5)  # until the rest of the flood was accepted
        assert is_served(port, "127.0.0.3")
    assert most <= 8 + 8 // 4 + 1


def test_silent_connections_make_room_for_the_next(fakes: FakeServices) -> None:
    with impatient(fakes, connections=10) as port, ExitStack() as stack:
        flood = [stack.enter_context(connect(port)) for _ in range(40)]
        assert is_served(port, "127.0.0.3")
        assert [rest(one) for one in flood] == [b""] * 40


def is_served(port: int, source: str) -> bool:
    with socket.create_connection(("127.0.0.1", port), BOUND, (source, 0)) as wire:
        wire.sendall(HEAD + b"Connection: close\r\n\r\n")
        return rest(wire).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("opening", "reply"),
    [
        (b"", b""),
        (HEAD, b""),
        (HEAD + b"\r\n", b"HTTP/1.1 200"),
        (UPLOAD + b"Content-Length: 10000\r\n\r\n" + bytes(100), b""),
        ((UPLOAD + b"Content-Length: %d\r\n\r\n" % len(gray_png()) + gray_png()) * 200, b""),
    ],
    ids=["silent", "half a head", "idle", "half a body", "a long pipeline"],
)
def test_an_address_with_all_connections_keeps_no_other_out(
    fakes: FakeServices, opening: bytes, reply: bytes
) -> None:
    fakes.dispatcher.delay = 5
    with impatient(fakes, connections=20, look=600) as port, ExitStack() as stack:
        for _ in range(20):
            source = ("127.0.0.2", 0)
            wire = stack.enter_context(socket.create_connection(("127.0.0.1", port), BOUND, source))
            wire.sendall(opening)
            if reply:
                assert wire.recv(65536).startswith(reply)
        assert [is_served(port, "127.0.0.3") for _ in range(12)] == [True] * 12


def test_an_address_with_all_connections_is_refused_more(fakes: FakeServices) -> None:
    """Nothing of its own is broken off for it, as long as it is being sent."""
    with impatient(fakes, connections=5, look=600) as port, ExitStack() as stack:
        for _ in range(5):
            wire = stack.enter_context(connect(port))
            wire.sendall(UPLOAD + b"Content-Length: 10000\r\n\r\n" + bytes(100))
        with connect(port) as wire:
            assert rest(wire).startswith(b"HTTP/1.1 503")


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_client_that_closes_its_sending_half_is_answered(
    port: int, fakes: FakeServices, version: bytes
) -> None:
    fakes.dispatcher.delay = 0.6
    request = (UPLOAD + b"Content-Length: %d\r\n\r\n" % len(gray_png())) + gray_png()
    with connect(port) as wire:
        wire.sendall(request.replace(b"HTTP/1.1", b"HTTP/" + version))
        wire.shutdown(socket.SHUT_WR)
        answer = rest(wire)
    assert b"HTTP/1.1 200" in answer
    assert b"predictions" in answer
    assert answer.startswith(b"HTTP/1.1 100") == (version == b"1.1")


def test_a_client_that_goes_away_is_noticed_all_the_same(port: int, fakes: FakeServices) -> None:
    fakes.dispatcher.delay = 60
    request = UPLOAD + b"Content-Length: %d\r\n\r\n" % len(gray_png()) + gray_png()
    with connect(port) as wire:
        wire.sendall(request)
        until(lambda: bool(fakes.dispatcher.asked))
    until(lambda: fakes.dispatcher.cancelled == 1)


@pytest.mark.parametrize("is_reset", [True, False])
def test_a_client_that_goes_is_noticed_while_its_requests_wait(
    port: int, fakes: FakeServices, is_reset: bool
) -> None:
    fakes.dispatcher.delay = 60
    request = UPLOAD + b"Content-Length: %d\r\n\r\n" % len(gray_png()) + gray_png()
    until = time.monotonic() + BOUND
    with connect(port) as wire:
        wire.sendall(request * 100)
        while not fakes.dispatcher.asked and time.monotonic() < until:
            time.sleep(0.01)
        if is_reset:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    while not fakes.dispatcher.cancelled and time.monotonic() < until:
        time.sleep(0.01)
    assert fakes.dispatcher.cancelled == 1
    assert len(fakes.dispatcher.asked) == 1


def test_a_thousand_requests_before_the_end_of_the_sending_half_are_answered(port: int) -> None:
    with connect(port) as wire:
        wire.sendall((HEAD + b"\r\n") * 1000)
        wire.shutdown(socket.SHUT_WR)
        assert rest(wire).count(b"HTTP/1.1 200") == 1000


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost localhost\r\n\r\n",
        UPLOAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        UPLOAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
    ],
    ids=["no request", "no header", "two lengths", "a bad chunk"],
)
def test_a_malformed_request_is_answered_as_a_problem(port: int, sent: bytes) -> None:
    with connect(port) as wire:
        wire.sendall(sent)
        answer = rest(wire)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert b"retry-after" not in head, "sent again, it is malformed again"
    request_id = json.loads(body)["request_id"]
    assert f"x-request-id: {request_id}" in head.decode()
    assert len(request_id) == 32


def test_an_idle_connection_makes_room(fakes: FakeServices) -> None:
    with impatient(fakes, connections=3) as port, ExitStack() as stack:
        idle = [stack.enter_context(connect(port)) for _ in range(3)]
        for one in idle:
            one.sendall(HEAD + b"\r\n")
            assert one.recv(65536).startswith(b"HTTP/1.1 200")
        with connect(port) as wire:
            wire.sendall(HEAD + b"\r\n")
            assert wire.recv(65536).startswith(b"HTTP/1.1 200")


def test_ordinary_requests_set_no_timer(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(3):
            answer = client.post(
                "/v1/classify", content=gray_png(), headers={"Content-Type": "image/png"}
            )
            assert answer.status_code == 200
        assert "server" not in answer.headers
