"""Decompresses request bodies (`Content-Encoding`), within the limits of any body.

Behind this middleware a request looks as if it had been sent without compression. The decompressed
bytes count against the limits of bodies and of memory, and no body may grow without bound: a few
kilobytes of zeros must not cost as much as the gigabyte that they stand for. Brotli and zstd keep
up to 16 MiB of what they have made, so only some bodies are decompressed at a time.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import BadRequest, PayloadTooLarge, QueueFull, UnsupportedMediaType
from service.auth.principal import quota_key
from service.http.decompression import CODINGS, CorruptBodyError, Decompressor
from service.http.errors import problem_response
from service.middleware.body_limit import BodyLimit

_SLICE_BYTES = 64 * 1024
MAX_RATIO = 200
FREE_BYTES = 16 * 1024 * 1024  # whatever the ratio
_ALIASES = {"x-gzip": "gzip"}
_BODYLESS = frozenset({"GET", "HEAD", "OPTIONS"})
_LARGE = frozenset({"br", "zstd"})
MAX_LARGE = 16
"""Bodies in these that one API process reads at a time; one client may send half of them."""
_DROPPED = frozenset({b"content-encoding", b"content-length"})


class ContentEncoding:
    """Decompresses bodies; 415 for codings that are not known.

    Args:
        app: The next ASGI application.
        limit: Maximum bytes of a decompressed body.
        path_limits: Larger limits of single routes, by template.
    """

    def __init__(
        self, app: ASGIApp, limit: int, path_limits: Mapping[str, int] | None = None
    ) -> None:
        self.app = app
        self._limited = BodyLimit(app, limit, path_limits)
        self._large: Counter[str] = Counter()  # being read, by quota key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _BODYLESS:
            await self.app(scope, receive, send)
            return
        # On the raw bytes, as this runs for every request.
        sent = [v.decode("latin-1") for n, v in scope["headers"] if n == b"content-encoding"]
        if not sent:
            await self.app(scope, receive, send)
            return
        names = [name.strip().lower() for value in sent for name in value.split(",")]
        codings = [_ALIASES.get(name, name) for name in names if name not in {"", "identity"}]
        if len(codings) > 1 or not CODINGS.keys() >= set(codings):
            accepted = ", ".join(CODINGS)
            error = UnsupportedMediaType(
                f"The body has the Content-Encoding {', '.join(sent)[:64]!r}. Send it uncompressed "
                f"or in one of {accepted}; a character set belongs in Content-Type."
            )
            headers = {"Accept-Encoding": accepted}
            await problem_response(Request(scope), error, headers=headers)(scope, receive, send)
            return
        kept = [item for item in scope["headers"] if item[0] != b"content-encoding"]
        if not codings:
            await self.app(dict(scope) | {"headers": kept}, receive, send)
            return
        kept = [item for item in kept if item[0] not in _DROPPED]
        await self._decompress(dict(scope) | {"headers": kept}, receive, send, codings[0])

    async def _decompress(self, scope: Scope, receive: Receive, send: Send, coding: str) -> None:
        client = quota_key(scope)
        is_large = coding in _LARGE
        if is_large and (self._large.total() >= MAX_LARGE or self._large[client] >= MAX_LARGE // 2):
            error = QueueFull("Too many compressed uploads at once. Send it again soon.")
            await problem_response(Request(scope), error)(scope, receive, send)
            return
        with ExitStack() as held:
            if is_large:
                self._large[client] += 1
                held.callback(self._release, client)
            body = _Body(receive, coding, held.close)
            await self._limited(scope, body.receive, send)

    def _release(self, client: str) -> None:
        self._large[client] -= 1
        if not self._large[client]:
            del self._large[client]


class _Body:
    """The decompressed body of one request.

    Args:
        receive: Of the server.
        coding: One of `CODINGS`.
        release: Called once the whole body was read.
    """

    def __init__(self, receive: Receive, coding: str, release: Callable[[], None]) -> None:
        self._receive = receive
        self._coding = coding
        self._release = release
        self._stream: Decompressor = CODINGS[coding]()
        self._read = self._made = 0
        self._has_ended = False  # the compressed data
        self._is_complete = False

    async def receive(self) -> Message:
        """The next message, with a limited piece of the body.

        Raises:
            BadRequest: The data is malformed.
            PayloadTooLarge: It becomes too much larger than it was.
        """
        if self._is_complete:
            return await self._receive()
        while True:
            data = b""
            if self._stream.needs_input and not self._has_ended:
                message = await self._receive()
                if message["type"] != "http.request":
                    return message
                data = message.get("body", b"")
                self._has_ended = not message.get("more_body", False)
                self._read += len(data)
            else:
                await asyncio.sleep(0)  # others take their turn between two slices
            piece = self._decompress(data)
            self._is_complete = self._has_ended and self._stream.needs_input and not piece
            if piece or self._is_complete:
                break
        if self._is_complete:
            self._release()
        if self._is_complete and self._read and not self._stream.is_finished:
            raise BadRequest(f"The body ends before its {self._coding} data does. Send all of it.")
        return {"type": "http.request", "body": piece, "more_body": not self._is_complete}

    def _decompress(self, data: bytes) -> bytes:
        try:
            piece = self._stream.decompress(data, _SLICE_BYTES)
        except CorruptBodyError:
            raise BadRequest(
                f"The body is not in {self._coding}, as its Content-Encoding says. Leave the "
                "header out if the body is not compressed."
            ) from None
        self._made += len(piece)
        if self._made > FREE_BYTES + MAX_RATIO * self._read:
            raise PayloadTooLarge(
                f"The body becomes more than {MAX_RATIO} times as large by decompression. Send it "
                "uncompressed."
            )
        return piece
