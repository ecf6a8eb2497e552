"""Refuses bodies that are larger than any request may be, before or while they are read.

Starlette's own limit answers in plain text, whatever the application has answered; this one makes
the same problem response as all other errors.
"""

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import PayloadTooLarge
from service.http.errors import problem_response


class BodyLimit:
    """413 for a declared or counted length over the limit.

    Args:
        app: The next ASGI application.
        limit: Maximum bytes of a body.
        path_limits: Larger limits of single paths.
    """

    def __init__(
        self, app: ASGIApp, limit: int, path_limits: Mapping[str, int] | None = None
    ) -> None:
        self.app = app
        self._limit = limit
        self._path_limits = dict(path_limits or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self._path_limits.get(scope["path"], self._limit)
        declared = Headers(scope=scope).get("Content-Length", "")
        if declared.isdecimal() and int(declared) > limit:
            await problem_response(Request(scope), _error(limit))(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise _error(limit)
            return message

        await self.app(scope, counted, send)


def _error(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"A request may have {limit} bytes; send fewer images in it.")
