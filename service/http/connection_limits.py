"""uvicorn's HTTP protocol, with bounds on how slowly a client may send and read.

uvicorn bounds only the idle time between two requests. A client that sends a byte of its head per
minute, or an endless head, or does not read its response, would hold a connection and memory
forever. Here each phase has a bound:

    connected, head incomplete     `header_seconds`, and 64 KiB; then 408 or 431
    body incomplete                `min_upload_rate` in every 10 s; then the connection is closed
    response not read              the same rate in every 10 s; then the connection is closed
    responses not read, together   `max_unread` bytes; then the connection with most is closed
    idle                           uvicorn's keep-alive; when all connections are in use, an idle
                                   one is closed for the next

Timers are set only for what does not arrive in one piece, so ordinary requests pay nothing.

A request that asks for another protocol (`Upgrade: h2c`, which Java's HttpClient and `curl --http2`
send by default) is served as if it had not asked, as RFC 9110, section 7.8 permits.
"""

import asyncio
import json
import sys
from typing import Any

import httptools
import structlog
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from contracts.errors import CODES
from contracts.settings import Settings

CHECK_SECONDS = 10.0
MAX_HEAD_BYTES = 64 * 1024
MAX_UNREAD_BYTES = 512 * 1024 * 1024
_CLOSE = b"content-type: application/problem+json\r\nconnection: close\r\n"

log = structlog.get_logger()


class TimeoutProtocol(HttpToolsProtocol):
    """One connection. The bounds are class attributes, set by `protocol_class`."""

    header_seconds = 10.0
    min_rate = 0
    max_connections = 1024
    check_seconds = CHECK_SECONDS
    max_unread = MAX_UNREAD_BYTES

    def __init__(self, config: Config, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        self._in_head = True
        self._in_body = False
        self._head_bytes = 0
        self._received = b""  # the data that is being parsed
        self._arrived = 0  # bytes since the last check
        self._was_paused = False  # reading, by this side, since the last check
        self._unread = 0  # bytes of responses, at the last check
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection, or refuse it if there are too many."""
        super().connection_made(transport)  # type: ignore[arg-type] # as uvicorn narrows it
        if len(self.connections) > self.max_connections and not self._make_room():
            self._refuse(503, "All connections are in use. Retry soon.")
            return
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers."""
        self._stop(self._head_timer, self._body_timer, self._write_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the data, and set timers for what is missing."""
        self._arrived += len(data)
        was_in_body = self._in_body
        self._received = data
        super().data_received(data)
        self._received = b""
        if self.transport.is_closing():
            return
        self._was_paused |= self.flow.read_paused
        if self._in_body:
            if self._body_timer is None and self.min_rate:
                self._start_body_timer()
        elif self._in_head or self._is_idle:
            # When idle: empty lines between requests end uvicorn's keep-alive but begin nothing.
            if not was_in_body:  # otherwise this was the rest of a refused body
                self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, "The head of a request may have 64 KiB.")
            elif self._head_timer is None:
                self._start_head_timer()

    def on_message_begin(self) -> None:
        """Called when a head begins."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. Trailers are dropped: nothing reads them, and they may grow unbounded."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Called when the head is complete."""
        if self.parser.should_upgrade():
            return  # `_unsupported_upgrade_warning` starts this request
        self._in_head, self._in_body, self._head_bytes = False, True, 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Called when the body is complete."""
        if self.parser.should_upgrade():
            return
        self._in_body = False
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        super().on_message_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Parse a request that asks for another protocol again, without the header that asks.

        uvicorn calls this while it handles the parser's `HttpParserUpgrade`. The parser ends such a
        message after its head and would take its body for the next request, through which a client
        could smuggle requests past a proxy (uvicorn issue 2722).
        """
        method = self.parser.get_method()
        if method == b"CONNECT":  # never has a body; what follows is for the protocol in the tunnel
            self._refuse(400, "CONNECT is not supported.")
            return
        upgrade = sys.exception()
        assert isinstance(upgrade, httptools.HttpParserUpgrade)  # noqa: S101
        rest = self._received[upgrade.args[0] :]
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self._received = b"\r\n".join([*lines, b"", b""]) + rest
        super().data_received(self._received)

    def pause_writing(self) -> None:
        """Called when the client reads its response more slowly than it is written."""
        super().pause_writing()
        if self.min_rate and self._write_timer is None:
            self._start_write_timer()
        self._limit_unread()

    def resume_writing(self) -> None:
        """Called when the client has caught up."""
        self._stop(self._write_timer)
        self._write_timer = None
        super().resume_writing()

    @property
    def _is_idle(self) -> bool:
        """Whether no request is in progress."""
        cycle: Any = self.cycle  # uvicorn's annotation omits the None it starts with
        return cycle is None or bool(cycle.response_complete)

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.header_seconds, self._on_head_timeout)

    def _on_head_timeout(self) -> None:
        self._head_timer = None
        if self._head_bytes:
            self._refuse(408, "The head of the request took too long. Send it again.")
        else:
            self.transport.close()  # it never sent a byte, so it expects no response

    def _start_body_timer(self) -> None:
        self._arrived, self._was_paused = 0, self.flow.read_paused
        self._body_timer = self.loop.call_later(self.check_seconds, self._check_body)

    def _check_body(self) -> None:
        self._body_timer = None
        # A client whose connection was paused by this side could not send.
        if not self._was_paused and self._arrived < self.min_rate * self.check_seconds:
            self._abort("sends its request")
        else:
            self._start_body_timer()

    @property
    def unread(self) -> int:
        """Bytes of responses that wait for the client to read them."""
        return self.transport.get_write_buffer_size()

    def _start_write_timer(self) -> None:
        self._unread = self.unread
        self._write_timer = self.loop.call_later(self.check_seconds, self._check_reader)

    def _check_reader(self) -> None:
        self._write_timer = None
        # Nothing is added meanwhile: the application waits until writing is resumed.
        if self._unread - self.unread < self.min_rate * self.check_seconds:
            self._abort("reads its answer")
        else:
            self._start_write_timer()

    def _limit_unread(self) -> None:
        """Close the connection with the most unread bytes if there are too many in total."""
        connections = [c for c in self.connections if isinstance(c, TimeoutProtocol)]
        unread = {c: c.unread for c in connections if c.flow.write_paused}
        if sum(unread.values()) > self.max_unread:
            max(unread, key=unread.__getitem__)._abort("keeps the most of its answers unread")

    def _abort(self, what: str) -> None:
        log.info("slow_client_cut_off", what=what)
        self.transport.abort()

    def _make_room(self) -> bool:
        """Close a connection that waits for its next request, if there is one."""
        for other in self.connections:
            if getattr(other, "timeout_keep_alive_task", None) is not None:
                other.timeout_keep_alive_handler()  # type: ignore[union-attr] # one of these
                return True
        return False

    def _refuse(self, status: int, detail: str) -> None:
        """Respond before there is a request that the application could respond to."""
        if not self._is_idle:  # would be taken for the response to the previous request
            self._abort("sends its next request")
            return
        code = "bad_request" if status < 500 else "dependency_unavailable"
        body = json.dumps(
            {
                "type": f"urn:opsin:problem:{code}",
                "title": CODES[code].title,
                "status": status,
                "detail": detail,
                "code": code,
                "request_id": "",
            }
        ).encode()
        head = b"HTTP/1.1 %d \r\n%sretry-after: 1\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(head % (status, _CLOSE, len(body)) + body)
        self.transport.close()

    @staticmethod
    def _stop(*timers: asyncio.TimerHandle | None) -> None:
        for timer in timers:
            if timer is not None:
                timer.cancel()


def protocol_class(settings: Settings) -> type[TimeoutProtocol]:
    """The protocol with the bounds of the settings."""

    class ConfiguredProtocol(TimeoutProtocol):
        """A connection of this service."""

        header_seconds = settings.header_seconds
        min_rate = settings.min_upload_rate
        max_connections = settings.max_connections

    return ConfiguredProtocol
