"""HTTP connections, read by our protocol and by h11: both must find the same requests.

A difference between two readers of one connection is how requests are smuggled past a proxy, so h11
stands for any other reader. Ours may refuse what h11 accepts. What ours accepts and h11 refuses is
a finding, unless it is listed here and cannot move the boundary between two requests.
"""

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any

import h11
import uvicorn
from uvicorn.server import ServerState

from contracts.errors import BadRequest
from contracts.settings import Settings
from service.connections.connection_limits import TimeoutProtocol, protocol_class
from service.connections.line_limit import LineLimit

_SETTLE_STEPS = 200  # of the event loop, for each piece; more than a dozen pipelined requests take
# Of h11's reasons, those that do not concern where a request ends: h11 checks the target, the names
# and the count of headers, and Host, which the application checks here.
_HARMLESS = (
    "illegal request line",  # a method or a target that h11 does not know
    "illegal header line",  # a value that ends with blanks or holds control characters
    "Missing mandatory Host",
    "Found multiple Host",
    "Illegal header",
    "illegal method",
    "Illegal method",
    "Illegal target",
    "no request line received",  # empty lines before a request (RFC 9112, 2.2)
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A whole request."""

    method: bytes
    body: bytes


@dataclass(slots=True)
class Reading:
    """What a reader made of a connection.

    Attributes:
        requests: The whole ones, in order.
        error: Why it stopped; empty if it did not.
        is_closed: Whether it reads no further.
    """

    requests: list[Seen] = field(default_factory=list)
    error: str = ""
    is_closed: bool = False


class _Transport(asyncio.Transport):
    """A connection whose client reads everything."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class HttpFuzz:
    """Feeds connections to both readers."""

    def __init__(self) -> None:
        self._protocol = protocol_class(Settings(_env_file=None))
        self._protocol.lines = LineLimit(clock=lambda: 0.0, burst=0)

    def feed(self, data: bytes) -> str:
        """Compare the readings of a connection.

        Raises:
            AssertionError: They differ.
            BadRequest: The connection was refused.
        """
        ours, theirs = asyncio.run(self._read(data)), read_by_h11(data)
        common = list(zip(ours.requests, theirs.requests, strict=False))
        assert all(a == b for a, b in common), (data, ours, theirs)
        more = len(ours.requests) - len(theirs.requests)
        if more > 0 and not theirs.error.startswith(_HARMLESS):
            raise AssertionError(("accepted by us alone", data, ours, theirs))
        if more < 0 and not ours.is_closed:
            raise AssertionError(("still read by us", data, ours, theirs))
        if ours.is_closed and not ours.requests:
            raise BadRequest("refused")
        return "accepted"

    async def _read(self, data: bytes) -> Reading:
        reading = Reading()
        config = uvicorn.Config(_recorder(reading), log_config=None, ws="none", http=self._protocol)
        config.load()
        protocol: TimeoutProtocol = self._protocol(
            config, ServerState(), {}, asyncio.get_running_loop()
        )
        transport = _Transport()
        protocol.connection_made(transport)
        half = len(data) // 2
        for piece in (data[:half], data[half:]):
            if piece and not transport.closed:
                protocol.data_received(piece)
            for _ in range(_SETTLE_STEPS):
                await asyncio.sleep(0)
        reading.is_closed = transport.closed
        protocol.connection_lost(None)
        for _ in range(_SETTLE_STEPS):
            await asyncio.sleep(0)
        return reading


def _recorder(reading: Reading) -> Any:
    """An application that records whole requests and answers them."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, message = b"", {"more_body": True}
        while message["more_body"]:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message["body"]
        reading.requests.append(Seen(scope["method"].encode(), body))
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    return app


def read_by_h11(data: bytes) -> Reading:
    """The requests by h11, each answered at once."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
    reading = Reading()
    connection.receive_data(data)
    method, body = b"", b""
    try:
        for _ in itertools.count():
            event = connection.next_event()
            if isinstance(event, h11.Request):
                method, body = event.method, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                reading.requests.append(Seen(method, body))
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    reading.is_closed = True
                    return reading
                connection.start_next_cycle()
            else:
                return reading
    except h11.RemoteProtocolError as error:
        reading.error, reading.is_closed = str(error), True
    except h11.LocalProtocolError:  # such as an answer to CONNECT
        reading.is_closed = True
    return reading


def seeds() -> list[bytes]:
    """Good connections, and the tricks that are known to divide readers."""
    head = b"POST /v1/classify HTTP/1.1\r\nHost: a\r\n"
    get = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    length = head + b"Content-Length: 5\r\n\r\nhello"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    h2c = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
    chunks = b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n"
    good = [
        *(get, get * 3, length, length + get, chunked + chunks + get, length + length),
        head + h2c + b"Content-Length: 5\r\n\r\nhello" + get,
        head + h2c + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + get,
        b"GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /x HTTP/1.0\r\n\r\n",
        head + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
    ]
    inner = b"GET /in HTTP/1.1\r\nHost: a\r\n\r\n"
    tricks = [
        head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner,
        head + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + inner,
        head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello" + inner,
        head + b"Content-Length: 5, 5\r\n\r\nhello" + inner,
        head + b"Content-Length: +5\r\n\r\nhello" + inner,
        head + b"Content-Length: 0x5\r\n\r\nhello" + inner,
        head + b"Content-Length : 5\r\n\r\nhello" + inner,
        head + b"Content-Length:\r\n 5\r\n\r\nhello" + inner,
        head + b"Transfer-Encoding: identity\r\n\r\n" + inner,
        head + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + inner,
        head + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + inner,
        head + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + inner,
        head + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + inner,
        head + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n" + inner,
        head + b"X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner,
        head + b"X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner,
        chunked + b"0x3\r\nabc\r\n0\r\n\r\n" + inner,
        chunked + b"3 \r\nabc\r\n0\r\n\r\n" + inner,
        chunked + b"3\nabc\r\n0\r\n\r\n" + inner,
        chunked + b"3\r\nabcX0\r\n\r\n" + inner,
        chunked + b"00000000000000003\r\nabc\r\n0\r\n\r\n" + inner,
        chunked + b"ffffffffffffffff3\r\nabc\r\n0\r\n\r\n" + inner,
        chunked + b"0\r\nContent-Length: 50\r\n\r\n" + inner,
        b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + inner,
        b"GET /x HTTP/1.0\r\nHost: a\r\n\r\n" + inner,
        b"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner,
        b"GET /x\r\n\r\n" + inner,
        b"\r\n\r\n" + get,
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n" + inner,
    ]
    return good + tricks
