"""Gives every request an id, sent with the response and in all log lines, and an arrival time.

A request that is part of a distributed trace (W3C Trace Context) carries `traceparent`. Its log
lines then name the trace, and the response carries the header with an id for this request's part.
"""

import re
import secrets
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-Id"
TRACE_HEADER = "traceparent"
# Printable ASCII, so that an id can neither split a header nor forge a log line.
_ACCEPTED = re.compile(r"[\x21-\x7e]{1,128}")
_TRACE = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


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
        headers = Headers(scope=scope)
        sent = headers.get(HEADER, "")
        request_id = sent if _ACCEPTED.fullmatch(sent) else secrets.token_hex(16)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["arrived"] = time.monotonic()
        added, context = {HEADER: request_id}, {"request_id": request_id}
        if (trace := _trace_of(headers)) is not None:
            trace_id, flags = trace
            span_id = secrets.token_hex(8)
            added[TRACE_HEADER] = f"00-{trace_id}-{span_id}-{flags}"
            context |= {"trace_id": trace_id, "span_id": span_id}

        async def add_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                response_headers = MutableHeaders(scope=message)
                for name, value in added.items():
                    response_headers[name] = value
            await send(message)

        with structlog.contextvars.bound_contextvars(**context):
            await self.app(scope, receive, add_headers)


def _trace_of(headers: Headers) -> tuple[str, str] | None:
    """The trace's id and flags; None without a valid header, of which there must be one."""
    sent = headers.getlist(TRACE_HEADER)
    match = _TRACE.fullmatch(sent[0].strip()) if len(sent) == 1 else None
    if match is None or (match[1] == "00" and match[5]):
        return None
    trace_id, parent_id = match[2], match[3]
    if not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    return trace_id, match[4]
