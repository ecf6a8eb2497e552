"""A minimal keep-alive HTTP/1.1 connection that posts bodies.

A full-featured client takes 0.5 to 1 core-milliseconds per request, which on two cores is as much
as what is measured. This one writes prepared headers and the body, and parses with httptools.
"""

import asyncio
from dataclasses import dataclass
from typing import cast

import httptools

_BOUNDARY = "7d3f0c5ab1e94"


class ConnectionLostError(Exception):
    """The connection was closed before the response."""


@dataclass(frozen=True, slots=True)
class Response:
    """The response of the server."""

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """Sends one request at a time. Use `connect` to create it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._future: asyncio.Future[Response] | None = None
        self._body: list[bytes] = []

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def post(self, head: bytes, body: bytes) -> "asyncio.Future[Response]":
        """Send a request and return a future of its response.

        Raises:
            ConnectionLostError: The connection is closed, or closes before the response.
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
        """Called by the parser with a part of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Called by the parser at the end of the response."""
        if self._parser is None or self._future is None:
            return
        status = self._parser.get_status_code()
        # 1xx responses such as 100 Continue are not final.
        if status >= 200 and not self._future.done():
            self._future.set_result(Response(status, b"".join(self._body)))
            if not self._parser.should_keep_alive():
                self.close()


async def connect(port: int) -> Connection:
    """Connect to a server on this machine.

    Raises:
        ConnectionLostError: The connection is refused.
    """
    try:
        _, protocol = await asyncio.get_running_loop().create_connection(
            Connection, "127.0.0.1", port
        )
    except OSError as error:
        raise ConnectionLostError(str(error)) from error
    return protocol


def request_of(
    port: int, path: str, image: bytes, field: str | None, accept: str = "*/*"
) -> tuple[bytes, bytes]:
    """Headers and body of a request that posts a JPEG, as the body or as a form field."""
    media_type, body = "image/jpeg", image
    if field is not None:
        media_type = f"multipart/form-data; boundary={_BOUNDARY}"
        disposition = f'form-data; name="{field}"; filename="image.jpg"'
        part = f"Content-Disposition: {disposition}\r\nContent-Type: image/jpeg"
        head, tail = f"--{_BOUNDARY}\r\n{part}\r\n\r\n", f"\r\n--{_BOUNDARY}--\r\n"
        body = head.encode() + image + tail.encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {media_type}\r\n"
        f"Accept: {accept}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode(), body
