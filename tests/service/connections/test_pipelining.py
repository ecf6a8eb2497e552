"""Many requests, or parts of one, in one piece: few are parsed at a time, and none is lost."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from contracts.settings import Settings
from service.connections import connection_limits
from service.connections.connection_limits import MAX_HEAD_BYTES, TimeoutProtocol, protocol_class
from service.connections.pipelining import (
    _CONNECTIONS,
    MAX_WAITING,
    HeldFlow,
    Turns,
    slice_end,
)
from service.http.addresses import TrustedProxies

GET = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
CHUNKED = b"POST /%d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"POST /%d HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n"
FEW = MAX_WAITING + 30  # requests that a slice may begin after the last that found room


class Wire(asyncio.Transport):
    """A client that reads everything, and obeys when it is not read."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_read = True
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True


class Connection:
    """A connection to an application that records what it is asked."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.asked: list[tuple[str, bytes]] = []
        self.disconnected: list[str] = []
        self.is_slow = False  # answers only once the client has gone
        kind = protocol_class(Settings(_env_file=None))
        config = uvicorn.Config(
            self._answer,
            interface="asgi3",
            log_config=None,
            ws="none",
            http=kind,
        )
        config.load()
        protocol = kind(config, ServerState(), {}, asyncio.get_running_loop())
        self.protocol: TimeoutProtocol = protocol
        protocol.connection_made(self.wire)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        body, message = b"", {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        self.asked.append((scope["path"], body))
        if self.is_slow:
            assert (await receive())["type"] == "http.disconnect"
            self.disconnected.append(scope["path"])
            return
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def send(self, data: bytes) -> None:
        """Send data, in pieces of what a read takes, as soon as they are read."""
        for start in range(0, len(data), 1 << 18):
            for _ in range(10_000):
                if self.wire.is_read:
                    break
                await asyncio.sleep(0)
            if self.wire.closed:
                return
            self.protocol.data_received(data[start : start + (1 << 18)])

    async def settle(self) -> None:
        """Until nothing happens any more."""
        seen = -1
        while len(self.wire.written) > seen:
            seen = len(self.wire.written)
            for _ in range(100):
                await asyncio.sleep(0)


def run(use: Callable[[Connection], Awaitable[None]]) -> None:
    async def connected() -> None:
        connection = Connection()
        await use(connection)
        connection.protocol.connection_lost(None)
        await asyncio.sleep(0)

    asyncio.run(connected())


def test_of_thousands_of_requests_in_one_piece_few_are_parsed_at_a_time() -> None:
    async def use(connection: Connection) -> None:
        protocol = connection.protocol
        protocol.data_received(b"".join(GET % i for i in range(3000)))
        assert not connection.wire.is_read
        most = 0
        for _ in range(20_000):
            most = max(most, len(protocol.pipeline))
            if len(connection.asked) == 3000:
                break
            await asyncio.sleep(0)
        await connection.settle()
        assert most <= FEW
        assert [path for path, _ in connection.asked] == [f"/{i}" for i in range(3000)]
        assert connection.wire.is_read

    run(use)


def mixed(count: int) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Requests of all kinds, and what the application should be asked."""
    sent, asked = b"", []
    for i in range(count):
        body = b"" if i % 5 == 0 else bytes([i % 256]) * (i * 37 % 1500) + b"\r\n\r\nGET / HTTP/1.1"
        length = b"Content-Length: %d\r\n\r\n" % len(body) + body
        tiny = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\nX-Trailer: a\r\n\r\n"
        whole = b"%x;a=b\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        sent += (
            GET % i,
            POST % (i, len(body), body),
            CHUNKED % i + tiny,
            UPGRADE % i + length,
            CHUNKED % i + whole,
        )[i % 5]
        asked.append((f"/{i}", body))
    return sent, asked


@pytest.mark.parametrize("piece", [1 << 20, 5000, 513, 512, 511, 97, 1])
def test_requests_are_the_same_however_they_are_cut(piece: int) -> None:
    sent, asked = mixed(60)

    async def use(connection: Connection) -> None:
        for start in range(0, len(sent), piece):
            await connection.send(sent[start : start + piece])
        await connection.settle()
        assert connection.asked == asked

    run(use)


def slices(connection: Connection) -> list[int]:
    """The lengths of what the connection parses from now on."""
    lengths: list[int] = []
    parse = connection.protocol._parse

    def record(data: bytes) -> None:
        lengths.append(len(data))
        parse(data)

    connection.protocol._parse = record  # type: ignore[method-assign]
    return lengths


@pytest.mark.parametrize("body", [b"1\r\na\r\n" * 20_000, b"\r\n" * 7_500], ids=["body", "lines"])
def test_tiny_parts_of_one_request_leave_others_their_turn(body: bytes) -> None:
    async def use(connection: Connection) -> None:
        lengths = slices(connection)
        start = CHUNKED % 0 if body[:1] == b"1" else b""
        connection.protocol.data_received(start + body)
        at_once = sum(lengths)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert at_once < min(16_000, len(body) * 2 / 3)
        assert sum(lengths) == len(start + body)

    run(use)


def test_a_long_body_is_parsed_in_one_go() -> None:
    async def use(connection: Connection) -> None:
        lengths = slices(connection)
        await connection.send(POST % (0, 200_000, b"\r\n" * 100_000))
        assert len(lengths) == 1

    run(use)


def test_reading_stays_paused_while_anything_is_not_parsed() -> None:
    """Also if a request asks for its body, which resumes reading."""

    async def use(connection: Connection) -> None:
        connection.is_slow = True
        connection.protocol.data_received(b"".join(GET % i for i in range(200)))
        for _ in range(20):
            await asyncio.sleep(0)
        assert connection.asked == [("/0", b"")]
        assert not connection.wire.is_read

    run(use)


def test_a_flow_that_is_let_go_reads_unless_a_request_wants_it_paused() -> None:
    async def body() -> None:
        wire = Wire()
        flow = HeldFlow(wire)
        flow.hold()
        flow.resume_reading()
        assert not wire.is_read
        flow.release()
        assert wire.is_read
        flow.hold()
        flow.pause_reading()
        flow.release()
        assert not wire.is_read
        flow.resume_reading()
        assert wire.is_read

    asyncio.run(body())


def test_requests_of_a_client_that_has_gone_do_not_begin_and_the_one_that_runs_is_told() -> None:
    async def use(connection: Connection) -> None:
        connection.is_slow = True
        connection.protocol.data_received(b"".join(GET % i for i in range(200)))
        for _ in range(10):
            await asyncio.sleep(0)
        connection.protocol.connection_lost(ConnectionResetError())
        await connection.settle()
        assert connection.asked == [("/0", b"")]
        assert connection.disconnected == ["/0"]

    run(use)


def test_the_next_request_does_not_begin_if_the_client_has_gone_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The system knows of it before the event loop is told."""
    monkeypatch.setattr(connection_limits, "has_peer_gone", lambda *_, **__: True)

    async def use(connection: Connection) -> None:
        connection.protocol.data_received(b"".join(GET % i for i in range(5)))
        await connection.settle()
        assert connection.asked == [("/0", b"")]
        assert connection.wire.closed

    run(use)


def test_an_address_that_was_just_refused_is_refused_without_a_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[object] = []

    def look(*arguments: object) -> list[object]:
        looks.append(arguments)
        return []

    monkeypatch.setattr(connection_limits, "to_evict", look)

    async def use(connection: Connection) -> None:
        assert [connection.protocol._make_room() for _ in range(3)] == [False] * 3
        assert len(looks) == 1

    run(use)


def test_what_follows_a_request_that_closes_the_connection_does_not_begin() -> None:
    async def use(connection: Connection) -> None:
        last = GET.replace(b"Host", b"Connection: close\r\nHost") % 20
        sent = b"".join(GET % i for i in range(20)) + last + GET % 21 * 300
        await connection.send(sent)
        await connection.settle()
        assert [path for path, _ in connection.asked] == [f"/{i}" for i in range(21)]
        assert connection.wire.closed

    run(use)


@pytest.mark.parametrize("piece", [1 << 20, 1000])
@pytest.mark.parametrize("upgrade", [b"", b"Connection: upgrade\r\nUpgrade: h2c\r\n"])
def test_a_head_that_is_too_long_is_refused_however_it_arrives(piece: int, upgrade: bytes) -> None:
    async def use(connection: Connection) -> None:
        fields = b"".join(b"X-%d: %b\r\n" % (i, b"a" * 90) for i in range(700))
        head = b"GET / HTTP/1.1\r\nHost: x\r\n" + upgrade + fields + b"\r\n"
        assert len(head) > MAX_HEAD_BYTES + 600
        for start in range(0, len(head), piece):
            await connection.send(head[start : start + piece])
        await connection.settle()
        assert connection.wire.written.startswith(b"HTTP/1.1 431")
        assert connection.asked == []

    run(use)


def test_a_malformed_request_after_many_ends_the_connection() -> None:
    async def use(connection: Connection) -> None:
        await connection.send(b"".join(GET % i for i in range(300)) + b"nonsense\r\n\r\n")
        await connection.settle()
        assert connection.wire.closed
        assert [path for path, _ in connection.asked] == [
            f"/{i}" for i in range(len(connection.asked))
        ]
        assert len(connection.asked) > 200

    run(use)


@pytest.mark.parametrize(
    ("data", "body_left", "is_chunked", "end"),
    [
        (b"a" * 20_000, 0, False, 512),
        (b"a" * 20_000, 1500, False, 1500),
        (b"a" * 20_000, 0, True, 262_144),
        (b"a" * 20_000 + b"\r\n" * 1000, 0, True, 16_384),
        (b"\r\n" * 1000, 0, True, 512),
        (POST % (0, 3000, b"a" * 4000), 0, False, 3000 + len(POST % (0, 3000, b""))),
        (GET % 0 + POST % (0, 3000, b"a" * 4000), 0, False, 512),
    ],
)
def test_a_slice(data: bytes, body_left: int, is_chunked: bool, end: int) -> None:
    assert slice_end(data, 0, body_left, is_chunked=is_chunked) == end


def test_few_connections_go_on_in_one_turn_of_the_loop_in_order() -> None:
    async def body() -> list[list[int]]:
        turns = Turns()
        by_turn: list[list[int]] = []
        went: list[int] = []
        for number in range(50):
            turns.add(
                asyncio.get_running_loop(),
                "192.0.2.1",
                partial(went.append, number),
                contextvars.copy_context(),
            )
        while sum(len(numbers) for numbers in by_turn) < 50:
            await asyncio.sleep(0)
            by_turn.append(went.copy())
            went.clear()
        return by_turn

    by_turn = asyncio.run(body())
    assert [number for numbers in by_turn for number in numbers] == list(range(50))
    assert max(len(numbers) for numbers in by_turn) <= _CONNECTIONS


def test_networks_take_turns() -> None:
    async def body() -> list[str]:
        loop, turns, went = asyncio.get_running_loop(), Turns(), list[str]()
        for network in "a" * 100 + "b" + "c" * 2:
            turns.add(loop, network, partial(went.append, network), contextvars.copy_context())
        for _ in range(100):
            await asyncio.sleep(0)
        return went

    assert "".join(asyncio.run(body())[:6]) == "abcaca"


def test_clients_behind_a_proxy_take_turns() -> None:
    async def body() -> list[str]:
        asked: list[tuple[str, bytes]] = []
        clients = ["192.0.2.1"] * 100 + ["192.0.2.2"]
        for client in clients:
            connection = Connection()
            connection.asked = asked
            connection.protocol.client = ("10.0.0.1", 1)
            connection.protocol.proxies = TrustedProxies(["10.0.0.0/8"])
            head = b"GET /%b HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.2, %b\r\n\r\n"
            connection.protocol.data_received(head % (client.encode(), client.encode()))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert len(asked) == len(clients)
        return [path for path, _ in asked]

    assert "/192.0.2.2" in asyncio.run(body())[: 2 * _CONNECTIONS]


def test_of_hundreds_of_connections_few_begin_their_next_request_in_one_turn() -> None:
    async def body() -> list[int]:
        connections = [Connection() for _ in range(100)]
        for connection in connections:
            connection.protocol.data_received(b"".join(GET % i for i in range(30)))
        counts: list[int] = []
        while not counts or counts[-1] < 100 * 30:
            await asyncio.sleep(0)
            counts.append(sum(len(connection.asked) for connection in connections))
        for connection in connections:
            connection.protocol.connection_lost(None)
        return counts

    counts = asyncio.run(body())
    assert max(b - a for a, b in pairwise([0, *counts])) <= _CONNECTIONS


def test_a_request_that_is_evicted_before_it_begins_is_answered_and_never_begins() -> None:
    async def body() -> list[Connection]:
        connections = [Connection() for _ in range(3 * _CONNECTIONS)]
        for connection in connections:
            connection.protocol.data_received(GET % 1)
        assert [one.protocol.is_queued for one in connections].count(True) == 2 * _CONNECTIONS
        connections[-1].protocol._evict()
        for connection in connections:
            await connection.settle()
        return connections

    *others, evicted = asyncio.run(body())
    assert all(one.asked and not one.protocol.is_queued for one in others)
    assert (evicted.asked, evicted.wire.closed) == ([], True)
    assert evicted.wire.written.startswith(b"HTTP/1.1 503 ")


def test_a_request_does_not_inherit_the_context_of_the_one_before() -> None:
    seen: list[str] = []
    variable = contextvars.ContextVar("variable", default="nothing")

    async def use(connection: Connection) -> None:
        answer = connection.protocol.app

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append(variable.get())
            variable.set(scope["path"])
            await answer(scope, receive, send)

        connection.protocol.app = app
        await connection.send(b"".join(GET % i for i in range(40)))
        await connection.settle()

    run(use)
    assert seen == ["nothing"] * 40
