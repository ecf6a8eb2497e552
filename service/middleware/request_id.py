"""Gives every request an id, sent with the response and in all log lines, and an arrival time."""

import re
import secrets
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-Id"
# Printable ASCII, so that an id can neither split a header nor forge a log line.
_ACCEPTED = re.compile(r"[\x21-\x7e]{1,128}")


class RequestId:
    """Uses the client's `X-Request-Id` if it is safe to echo, and makes one otherwise.

    Sets ``request.state.request_id`` and ``request.state.arrived`` (`time.monotonic()` seconds).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = Headers(scope=scope).get(HEADER, "")
        request_id = sent if _ACCEPTED.fullmatch(sent) else secrets.token_hex(16)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["arrived"] = time.monotonic()

        async def echo(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self.app(scope, receive, echo)
