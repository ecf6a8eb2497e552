"""Refuses bodies that are larger than any request may be, before or while they are read.

Starlette's own limit answers in plain text, whatever the application has answered; this one makes
the same problem response as all other errors.

JSON has a limit of its own. The framework parses it on the event loop, into objects that take many
times as much memory: what is harmless as a form of images would stop everyone for minutes. Only
tensors, which are read in another way (`service.protocols.tensor_json`), are JSON and large.
"""

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import PayloadTooLarge
from service.http.body import is_json
from service.http.errors import problem_response

MAX_JSON_BYTES = 1024 * 1024
_TENSOR_PATHS = (":predict", "/infer")


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
        headers = Headers(scope=scope)
        limit, error = self._path_limits.get(scope["path"], self._limit), _error
        if _is_plain_json(scope["path"], headers):
            limit, error = min(limit, MAX_JSON_BYTES), _json_error
        declared = headers.get("Content-Length", "")
        if declared.isdecimal() and int(declared) > limit:
            await problem_response(Request(scope), error(limit))(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise error(limit)
            return message

        await self.app(scope, counted, send)


def _error(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"A request may have {limit} bytes; send fewer images in it.")


def _is_plain_json(path: str, headers: Headers) -> bool:
    """Whether a body is JSON and no tensor."""
    content_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return is_json(content_type) and not path.endswith(_TENSOR_PATHS)


def _json_error(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"A JSON body may have {limit:,} bytes here. Send images as they are: as the body with "
        "their own type, or as a file of a form."
    )
