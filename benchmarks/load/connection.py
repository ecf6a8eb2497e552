"""One keep-alive HTTP/1.1 connection that posts bodies: no more than a benchmark needs.

A comfortable client costs 0.5 to 1 core-millisecond a request, which on two cores is what is to
be measured. This one writes a prepared head and the body, and lets httptools read the answer.
"""

import asyncio
from dataclasses import dataclass
from typing import cast

import httptools

_BOUNDARY = "7d3f0c5ab1e94"


class ConnectionLostError(Exception):
    """The server hung up before it had answered."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said."""

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """Sends one request at a time. Make it with `connect`."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._future: asyncio.Future[Answer] | None = None
        self._body: list[bytes] = []

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def post(self, head: bytes, body: bytes) -> "asyncio.Future[Answer]":
        """The answer to one request.

        Raises:
            ConnectionLostError: The connection is closed, or closes before the answer.
        """
        if self._transport is None:
            raise ConnectionLostError
        self._future = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._body.clear()
        self._transport.writelines((head, body))
        return self._future

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._future is not None and not self._future.done():
            self._future.set_exception(ConnectionLostError(str(exc)))

    def data_received(self, data: bytes) -> None:
        if self._parser is not None:
            self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """A piece of the body, from the parser."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """All of the answer is there."""
        if self._parser is None or self._future is None:
            return
        status = self._parser.get_status_code()
        # 100 Continue and its like are no answer.
        if status >= 200 and not self._future.done():
            self._future.set_result(Answer(status, b"".join(self._body)))
            if not self._parser.should_keep_alive():
                self.close()


async def connect(port: int) -> Connection:
    """A connection to a server on this machine.

    Raises:
        ConnectionLostError: Nobody listens.
    """
    try:
        _, protocol = await asyncio.get_running_loop().create_connection(
            Connection, "127.0.0.1", port
        )
    except OSError as error:
        raise ConnectionLostError(str(error)) from error
    return protocol


def request_of(
    port: int, path: str, picture: bytes, field: str | None, accept: str = "*/*"
) -> tuple[bytes, bytes]:
    """Head and body of the request that posts one JPEG, bare or as that field of a form."""
    kind, body = "image/jpeg", picture
    if field is not None:
        kind = f"multipart/form-data; boundary={_BOUNDARY}"
        disposition = f'form-data; name="{field}"; filename="picture.jpg"'
        part = f"Content-Disposition: {disposition}\r\nContent-Type: image/jpeg"
        head, tail = f"--{_BOUNDARY}\r\n{part}\r\n\r\n", f"\r\n--{_BOUNDARY}--\r\n"
        body = head.encode() + picture + tail.encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {kind}\r\n"
        f"Accept: {accept}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode(), body
