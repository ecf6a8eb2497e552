"""The HTTP protocol of the API: uvicorn's, with bounds on what a client may keep to itself.

uvicorn bounds the idle time between two requests and no more: a client that sends its head a byte
a minute, or a head without end, or does not read its answer, holds a connection, and memory, for
ever. Here each phase has a bound:

    connected, head not complete   `header_seconds`, and 64 KiB; then 408 or 431
    body not complete              `min_upload_rate` in every 10 s; then the connection is cut
    answer not read                the same rate in every 10 s; then the connection is cut
    answers not read, together     `most_unread` bytes; then the largest one is cut
    idle                           uvicorn's keep-alive; when all connections are taken, an idle
                                   one makes room for the next

Timers are set only for what does not come in one piece, so ordinary requests pay nothing.
"""

import asyncio
import json
from typing import Any

import structlog
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from contracts.errors import CODES
from contracts.settings import Settings

LOOK_SECONDS = 10.0
MOST_HEAD_BYTES = 64 * 1024
MOST_UNREAD_BYTES = 512 * 1024 * 1024
_CLOSE = b"content-type: application/problem+json\r\nconnection: close\r\n"

log = structlog.get_logger()


class PatientProtocol(HttpToolsProtocol):
    """One connection. The bounds are class attributes of the subclass `bounded` makes."""

    header_seconds = 10.0
    min_rate = 0
    max_connections = 1024
    look_seconds = LOOK_SECONDS
    most_unread = MOST_UNREAD_BYTES

    def __init__(self, config: Config, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        self._in_head = True
        self._in_body = False
        self._head_bytes = 0
        self._arrived = 0  # bytes since the last look
        self._held_back = False  # since the last look, by ourselves
        self._unread = 0  # bytes of answers, at the last look
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or turn it away where there are too many."""
        super().connection_made(transport)  # type: ignore[arg-type] # as uvicorn narrows it
        if len(self.connections) > self.max_connections and not self._make_room():
            self._refuse(503, "All connections are taken. Retry soon.")
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget all timers."""
        self._stop(self._head_timer, self._body_timer, self._write_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and watch over what has not come yet."""
        self._arrived += len(data)
        was_in_body = self._in_body
        super().data_received(data)
        if self.transport.is_closing():
            return
        self._held_back |= self.flow.read_paused
        if self._in_body:
            if self._body_timer is None and self.min_rate:
                self._await_body()
        elif self._in_head or self._answered:
            # The second: empty lines between requests, which end uvicorn's wait and begin nothing.
            if not was_in_body:  # else this was the rest of a body that was refused
                self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse(431, "The head of a request may have 64 KiB.")
            elif self._head_timer is None:
                self._await_head()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; what trails a body is nobody's, and would grow without a bound."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head, self._in_body, self._head_bytes = False, True, 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is whole."""
        self._in_body = False
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client reads its answer more slowly than it is made."""
        super().pause_writing()
        if self.min_rate and self._write_timer is None:
            self._await_reader()
        self._bound_unread()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._stop(self._write_timer)
        self._write_timer = None
        super().resume_writing()

    @property
    def _answered(self) -> bool:
        """Whether no request is under way."""
        cycle: Any = self.cycle  # uvicorn does not say that it begins with none
        return cycle is None or bool(cycle.response_complete)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.header_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._head_bytes:
            self._refuse(408, "The head of the request took too long. Send it again.")
        else:
            self.transport.close()  # it never said a word, so nobody waits for one

    def _await_body(self) -> None:
        self._arrived, self._held_back = 0, self.flow.read_paused
        self._body_timer = self.loop.call_later(self.look_seconds, self._look_at_body)

    def _look_at_body(self) -> None:
        self._body_timer = None
        # Whom we held back ourselves had no chance to send.
        if not self._held_back and self._arrived < self.min_rate * self.look_seconds:
            self._cut("sends its request")
        else:
            self._await_body()

    @property
    def unread(self) -> int:
        """Bytes of answers that wait for the client to read them."""
        return self.transport.get_write_buffer_size()

    def _await_reader(self) -> None:
        self._unread = self.unread
        self._write_timer = self.loop.call_later(self.look_seconds, self._look_at_reader)

    def _look_at_reader(self) -> None:
        self._write_timer = None
        # Nothing is added meanwhile: who makes an answer waits until writing is resumed.
        if self._unread - self.unread < self.min_rate * self.look_seconds:
            self._cut("reads its answer")
        else:
            self._await_reader()

    def _bound_unread(self) -> None:
        """Cut whom most is kept for, where all together keep too much of it."""
        ours = [one for one in self.connections if isinstance(one, PatientProtocol)]
        held = {one: one.unread for one in ours if one.flow.write_paused}
        if sum(held.values()) > self.most_unread:
            max(held, key=held.__getitem__)._cut("keeps the most of its answers unread")

    def _cut(self, what: str) -> None:
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
        """Answer before there is a request that the application could answer."""
        if not self._answered:  # this answer would be taken for that of the request before
            self._cut("sends its next request")
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


def bounded(settings: Settings) -> type[PatientProtocol]:
    """The protocol with the bounds that the settings draw."""

    class Bounded(PatientProtocol):
        """A connection of this service."""

        header_seconds = settings.header_seconds
        min_rate = settings.min_upload_rate
        max_connections = settings.max_connections

    return Bounded
