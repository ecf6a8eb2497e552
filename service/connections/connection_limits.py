"""uvicorn's HTTP protocol, with bounds on how slowly a client may send and read.

uvicorn bounds only the idle time between two requests. A client that sends a byte of its head per
minute, or an endless head, or does not read its response, would hold a connection and memory
forever. Here each phase has a bound:

    connected, head incomplete     `header_seconds`, then 408
    head                           16 KiB and 128 headers, then 431; 2 KiB of path, then 414
    chunked body                   16 KiB of extensions or trailers, then 400
    body incomplete                `min_upload_rate` in every 10 s; then the connection is closed
    response not read              the same rate in every 10 s, also of what is left when the
                                   connection is closed; then it is cut off
    responses not read, together   `max_unread` bytes; then some of the address that has most of
                                   those that are read slowly are closed, see `eviction`
    idle                           uvicorn's keep-alive
    requests in one piece          few are parsed and wait, see `pipelining`; the rest is not read
    all connections in use         some of the address that has most are closed for the next, see
                                   `eviction`

Timers are set only for what does not arrive in one piece, so ordinary requests pay nothing.

A request that asks for another protocol (`Upgrade: h2c`, which Java's HttpClient and `curl --http2`
send by default) is served as if it had not asked, as RFC 9110, section 7.8 permits. A client that
closes its sending half after a request is answered, see `half_closed`.
"""

import asyncio
import contextvars
import logging
import secrets
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import httptools
import structlog
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from contracts.settings import Settings
from service.connections.eviction import EVICTED_SHARE, RefusedNetworks, to_cut_off, to_evict
from service.connections.framing import Framing
from service.connections.half_closed import has_peer_ended, has_peer_gone
from service.connections.joined_writes import JoinedWrites
from service.connections.line_limit import LineLimit
from service.connections.pipelining import MAX_WAITING, SLICES, HeldFlow, Turns, slice_end
from service.connections.refusal import refusal
from service.http.addresses import TrustedProxies, network_of

CHECK_SECONDS = 10.0
MAX_HEAD_BYTES = 16 * 1024
"""No client needs more, and the cost of a head can grow faster than its length."""
MAX_HEADERS = 128
MAX_PATH_BYTES = 2048
MAX_UNREAD_BYTES = 512 * 1024 * 1024
GONE_SECONDS = 0.25  # between two looks whether a client that sends no more has gone
UNPROBED_SECONDS = 1.0  # that such a client is given if it cannot be asked
_LEAVING_SECONDS = 1.0  # that a closed connection is given to deliver the rest, if all are in use
_TRANSFER = b"transfer-encoding"
_LENGTH = b"content-length"

log = structlog.get_logger()
# uvicorn's own line for each malformed request has no bound; `send_400_response` writes another.
logging.getLogger("uvicorn.error").addFilter(lambda record: "Invalid HTTP" not in str(record.msg))


class TimeoutProtocol(HttpToolsProtocol):
    """One connection. The bounds are class attributes, set by `protocol_class`."""

    header_seconds = 10.0
    min_rate = 0
    max_connections = 1024
    check_seconds = CHECK_SECONDS
    max_unread = MAX_UNREAD_BYTES
    proxies = TrustedProxies()  # whose connections belong to many clients
    lines = LineLimit()
    refused = RefusedNetworks()
    turns = Turns()
    flow: HeldFlow

    def __init__(self, config: Config, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        self._in_head = True
        self._in_body = False
        self._head_bytes = 0
        self._body_left = 0  # bytes of a body of known length; of others, minus what has arrived
        self._framing = Framing()
        self._unparsed = b""  # what has arrived, from `_at` on
        self._at = 0
        self._awaits_turn = False  # to begin the next request, or to parse more
        self._context = contextvars.copy_context()  # not that of a request, for the next one
        self.is_queued = False  # its request has not begun
        self._running: RequestResponseCycle | None = None  # `cycle` is the last one of `pipeline`
        self._received = b""  # the slice that is being parsed
        self._again = b""  # what has to be parsed after it
        self._fault: tuple[int, str] | None = None  # of the head: status and detail of its response
        self._arrived = 0  # bytes since the last check
        self._was_paused = False  # reading, by this side, since the last check or timer
        self._has_completed = False  # a request, in the slice that is being parsed
        self._closed_at: float | None = None  # with data that the client has yet to read
        self.paused_at = 0.0  # writing, as the client has yet to read
        self._unread = 0  # bytes of responses, at the last check
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._gone_timer: asyncio.TimerHandle | None = None
        self._opened = 0.0
        self._has_ended = False  # the client's sending half
        self._is_probed = True
        self._has_asked = False  # whether it is still there, while requests wait
        self.network = ""  # of the client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection, or refuse it if there are too many."""
        super().connection_made(transport)  # type: ignore[arg-type] # as uvicorn narrows it
        self.flow = HeldFlow(self.transport)
        self.transport = JoinedWrites(self.transport, self.loop, self._on_close)
        self._opened = self.loop.time()
        self.network = network_of(self.client[0]) if self.client else ""
        if len(self.connections) > self.max_connections and not self._make_room():
            self._refuse(503, "All connections are in use. Retry soon.")
            return
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers, and what the client waits for."""
        self._stop(self._head_timer, self._body_timer, self._write_timer, self._gone_timer)
        self._drop_unanswered()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override] # uvicorn's returns None
        """Close the connection, unless a whole request waits for its response.

        A client that has gone looks the same, so it is sent an interim response, which a client
        that still reads has to accept (RFC 9110, 15.2) and one that has gone answers with a reset.
        What is not yet parsed comes before this: nothing is read meanwhile, so no end is either.
        """
        cycle, is_waiting = self.cycle, not self.is_idle
        if self._has_ended:
            return True
        if not is_waiting or self._in_body or self._in_head or self.client is None:
            return False
        if cycle.response_started and cycle.chunked_encoding is not False:
            return False  # such as events: it might be hours before anything is sent
        self._has_ended = True
        cycle.keep_alive = False
        seconds = GONE_SECONDS / 5
        if not (cycle.response_started or self.pipeline):
            self._is_probed = self._ask(cycle)
            seconds = seconds if self._is_probed else UNPROBED_SECONDS
        self._stop(self._gone_timer)
        self._gone_timer = self.loop.call_later(seconds, self._abort_if_gone)
        return True

    def _abort_if_gone(self) -> None:
        self._gone_timer = None
        if self.transport.is_closing() or not (self._has_ended or self.pipeline):
            return
        if not self._is_probed or has_peer_gone(self.transport, unknown=self._has_ended):
            self.transport.abort()
            return
        seconds = GONE_SECONDS
        # While requests wait, nothing is read, and the end of what the client sends is not seen.
        if not (self._has_ended or self._has_asked) and has_peer_ended(self.transport):
            seconds, self._has_asked = GONE_SECONDS / 5, True
            running = self._running
            if running is not None and not running.response_started:
                self._ask(running)
        self._gone_timer = self.loop.call_later(seconds, self._abort_if_gone)

    def _ask(self, cycle: RequestResponseCycle) -> bool:
        """Send what a client that has gone answers with a reset; False if there is nothing."""
        if cycle.scope["http_version"] == "1.0":  # knows no interim responses
            return False
        self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def data_received(self, data: bytes) -> None:
        """Parse the data, and set timers for what is missing."""
        if self.transport.is_closing():
            return  # what follows a malformed or refused request
        self._arrived += len(data)
        self._unparsed, self._at = self._unparsed[self._at :] + data, 0
        self._read_on()

    def _read_on(self) -> None:
        """Parse what has arrived, as far as few requests wait and others have a turn."""
        size = len(self._unparsed)
        for _ in range(SLICES):
            if self._at >= size or len(self.pipeline) >= MAX_WAITING:
                break
            self._parse_slice()
            if self.transport.is_closing():
                self._drop_unanswered()
                return
        if self._at < size:
            self.flow.hold()
            if len(self.pipeline) < MAX_WAITING:
                self._await_turn()
        else:
            self._unparsed, self._at = b"", 0
            self.flow.release()
            self._set_timers()
        self._was_paused |= self.flow.read_paused
        if self.pipeline and self._gone_timer is None:  # as long as nothing is read
            self._gone_timer = self.loop.call_later(GONE_SECONDS / 5, self._abort_if_gone)

    def _parse_slice(self) -> None:
        was_in_body, self._has_completed = self._in_body, False
        is_chunked, left_before = was_in_body and self._body_left <= 0, self._body_left
        end = slice_end(self._unparsed, self._at, self._body_left, is_chunked=is_chunked)
        data = self._unparsed[self._at : end]
        self._at += len(data)
        self._parse(data)
        if is_chunked and self._in_body and not self._has_completed:
            self._framing.add(len(data), left_before - self._body_left)
            if self._framing.is_too_long and not self.transport.is_closing():
                self._refuse(400, "The chunk extensions or trailers of a body may have 16 KiB.")
        # When idle: empty lines between requests end uvicorn's keep-alive but begin nothing.
        # After a body, this was the rest of a refused one.
        if not (was_in_body or self._in_body) and (self._in_head or self.is_idle):
            # Of a slice that ends other requests too, what belongs to this head is not known.
            self._head_bytes += 1 if self._has_completed else len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(431, "The head of a request may have 16 KiB.")

    def _parse(self, data: bytes) -> None:
        """Parse the data; a request with `Upgrade` in it stops the parser, and is parsed again."""
        while data:
            self._received, self._again = data, b""
            super().data_received(data)
            data = b"" if self.transport.is_closing() else self._again
        self._received = self._again = b""

    def _set_timers(self) -> None:
        if self._in_body:
            if self._body_timer is None and self.min_rate:
                self._start_body_timer()
        elif (self._in_head or self.is_idle) and self._head_timer is None:
            self._start_head_timer()

    def _await_turn(self) -> None:
        if not self._awaits_turn:
            self._awaits_turn = True
            self.turns.add(self.loop, self.network, self._take_turn, self._context)

    def _take_turn(self) -> None:
        """Begin the next request of the connection, and parse others."""
        self._awaits_turn = False
        if self.transport.is_closing():
            self._drop_unanswered()
            return
        if self.pipeline and self._running is not None and self._running.response_complete:
            if has_peer_gone(self.transport, unknown=False):  # and has not read the last response
                self.transport.abort()
                return
            self._begin(*self.pipeline.pop())
        if self._unparsed:
            self._read_on()

    def _drop_unanswered(self) -> None:
        """Forget the requests that have not begun."""
        self._unparsed, self._at = b"", 0
        self.pipeline.clear()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Called when a head is complete and no other request is in progress."""
        self._running = cycle
        if self.turns.begins_now(self.loop):
            super()._start_asgi_task(cycle, app)
        else:
            self.is_queued = True
            begin = partial(self._begin, cycle, app)
            forwarded = self.proxies.network_behind(self.headers) if self.is_proxied else ""
            self.turns.add(self.loop, forwarded or self.network, begin, self._context)

    def _begin(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running, self.is_queued = cycle, False
        if not self.transport.is_closing():
            super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Let the next request of the connection begin, after those of others."""
        if self.pipeline and not self.transport.is_closing():
            self.server_state.total_requests += 1
            self.flow.resume_reading()
            self._await_turn()
        else:
            super().on_response_complete()
            if self.transport.is_closing():
                self._drop_unanswered()

    def on_message_begin(self) -> None:
        """Called when a head begins."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. Trailers are dropped: nothing reads them, and they may grow unbounded."""
        if not self._in_head:
            return
        if len(self.headers) >= MAX_HEADERS:
            self._fault = 431, f"A request may have {MAX_HEADERS} headers."
            raise ValueError("too many headers")  # ends the parser, see `send_400_response`
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Called when the head is complete."""
        if self.parser.should_upgrade():
            return  # `_unsupported_upgrade_warning` starts this request
        if len(self.url.partition(b"?")[0]) > MAX_PATH_BYTES:
            self._fault = 414, "The path of a request may have 2 KiB."
            raise ValueError("too long a path")
        self._body_left = self._known_length()
        # Raises for a URL without a path. Only then is there a request that has a body.
        super().on_headers_complete()
        self._in_head, self._in_body, self._head_bytes = False, True, 0
        self._framing = Framing()
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _known_length(self) -> int:
        """The length of the body, of which the parser accepts one at most; 0 if it is chunked.

        Raises:
            ValueError: There is a coding that is not undone here, such as `gzip, chunked`; the
                parser then reports a malformed request.
        """
        codings, length = [], 0
        for name, value in self.headers:
            if name == _TRANSFER:
                codings.append(value.strip().lower())
            elif name == _LENGTH:
                length = int(value)
        if codings not in ([], [b"chunked"]):
            raise ValueError("unknown transfer coding")
        return length

    def on_body(self, body: bytes) -> None:
        """Called with a part of the body."""
        self._body_left -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called when the body is complete."""
        if self.parser.should_upgrade():
            return
        self._in_body = False
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        self._has_completed = True
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
        # Not from here: thousands of such requests in one piece would exceed the depth of calls.
        self._again = b"\r\n".join([*lines, b"", b""]) + rest

    def pause_writing(self) -> None:
        """Called when the client reads its response more slowly than it is written."""
        super().pause_writing()
        self.paused_at = self.loop.time()
        if self.min_rate and self._write_timer is None:
            self._start_write_timer()
        self._limit_unread()

    def resume_writing(self) -> None:
        """Called when the client has caught up."""
        self._stop(self._write_timer)
        self._write_timer = None
        super().resume_writing()

    @property
    def is_idle(self) -> bool:
        """Whether no request is in progress."""
        cycle: Any = self.cycle  # uvicorn's annotation omits the None it starts with
        return cycle is None or bool(cycle.response_complete)

    def _on_close(self) -> None:
        """Called when it is closed before the client has read all."""
        self._closed_at = self.loop.time()
        if self.min_rate and self._write_timer is None:
            self._start_write_timer()

    def _start_head_timer(self) -> None:
        self._was_paused = self.flow.read_paused
        self._head_timer = self.loop.call_later(self.header_seconds, self._on_head_timeout)

    def _on_head_timeout(self) -> None:
        self._head_timer = None
        if self._was_paused:
            self._start_head_timer()  # the client could not send
        elif self._head_bytes:
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
        if self._unread - self.unread < min(self.min_rate * self.check_seconds, self._unread):
            self._abort("reads its answer")
        else:
            self._start_write_timer()

    def _limit_unread(self) -> None:
        """If there are too many unread bytes, close who reads slowly, not who has the largest."""
        connections = [c for c in self.connections if isinstance(c, TimeoutProtocol)]
        unread = {c: c.unread for c in connections if c.flow.write_paused}
        excess = sum(unread.values()) - self.max_unread
        for connection in to_cut_off(unread, self.loop.time()) if excess > 0 else ():
            connection._abort("keeps answers unread for longest")
            excess -= unread[connection]
            if excess <= 0:
                return

    def _abort(self, what: str) -> None:
        if self.lines.allows(self.network):
            log.info("slow_client_cut_off", what=what)
        self.transport.abort()

    def _make_room(self) -> bool:
        """Close other connections for this one; False if none may be closed."""
        now = self.loop.time()
        if self.refused.has(self.network, now):
            return False
        known = [c for c in self.connections if isinstance(c, TimeoutProtocol) and c is not self]
        evicted = to_evict(self, known, self.max_connections)
        for connection in evicted or ():
            connection._evict()
        if evicted is not None and self._gained_little(evicted):
            self.refused.add(self.network, now)
        return evicted is None or bool(evicted)

    def _gained_little(self, evicted: Sequence[Any]) -> bool:
        """Whether all that a look found were a few connections of its own address."""
        is_own = all(connection.network == self.network for connection in evicted)
        return is_own and len(evicted) * 2 * EVICTED_SHARE < self.max_connections

    @property
    def is_closing(self) -> bool:
        """Whether it is closed, though the client may have yet to read the rest."""
        return self.transport.is_closing()

    @property
    def is_stuck(self) -> bool:
        """Whether it is closed, and the client does not read the rest."""
        closed_at = self._closed_at
        return closed_at is not None and self.loop.time() > closed_at + _LEAVING_SECONDS

    @property
    def is_in_head(self) -> bool:
        """Whether the head of a request is incomplete or awaited."""
        return self._in_head

    @property
    def is_slow(self) -> bool:
        """Whether it has an unfinished body, an unread answer or more than is parsed at a time."""
        return self._in_body or self.flow.write_paused or bool(self._unparsed)

    @property
    def is_proxied(self) -> bool:
        """Whether a trusted proxy opened the connection."""
        return self.client is not None and self.client[0] in self.proxies

    @property
    def waits_since(self) -> float:
        """Comparable among connections that wait for the same."""
        keep_alive = self.timeout_keep_alive_task
        return self._opened if keep_alive is None else keep_alive.when()

    def _evict(self) -> None:
        if self.unread:
            self._abort("keeps the rest of its answer unread")
        elif self.is_queued or (self._in_head and self._head_bytes and self.is_idle):
            self._refuse(503, "All connections are in use. Retry soon.")
        elif self.is_idle:
            self.transport.close()
        else:
            self._abort("holds one of too many connections of its address")

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request."""
        del msg
        request_id = secrets.token_hex(16)
        status, detail = self._fault or (400, "This is not a well-formed request in HTTP/1.1.")
        if self.lines.allows(self.network):
            log.info("malformed_request", network=self.network, request_id=request_id)
        self._refuse(status, detail, request_id)

    def _refuse(self, status: int, detail: str, request_id: str | None = None) -> None:
        """Respond before there is a request that the application could respond to."""
        is_unanswered = self._in_body or self.is_queued
        is_of_this_request = is_unanswered and not (self.pipeline or self.cycle.response_started)
        if not (self.is_idle or is_of_this_request):
            # It would be taken for the response to the previous request.
            self._abort("sends its next request")
            return
        self.transport.write(refusal(status, detail, request_id or secrets.token_hex(16)))
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
        proxies = TrustedProxies(settings.trusted_proxies)
        refused = RefusedNetworks()

    return ConfiguredProtocol
