"""Gives every request an id, sent with the response and in all log lines, and an arrival time.

A request that is part of a distributed trace (W3C Trace Context) carries `traceparent`. Its log
lines then name the trace, and the response carries the header with an id for this request's part:
that of its span if the request is traced.
"""

import time
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.logs import set_log_fields
from contracts.random_bytes import random_hex
from contracts.tracing.origin import REQUEST_ID, Origin, TraceContext, set_origin
from contracts.tracing.spans import is_tracing, within
from service.middleware.request_span import begin_span, describe

HEADER = "X-Request-Id"
ID = HEADER.lower().encode()
_TRACE = b"traceparent"
_NAMES = frozenset({ID, _TRACE})


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
        # On the raw lower-case bytes, as this runs for every request.
        sent = [item for item in scope["headers"] if item[0] in _NAMES]
        request_id = id_of(sent) or random_hex(16)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["arrived"] = time.monotonic()
        sent_trace = _trace_of(sent)
        part = begin_span(scope, sent_trace) if is_tracing() else None
        trace = _own_part(sent_trace) if part is None else part.context
        set_origin(Origin(request_id, trace))
        added, context = [(ID, request_id.encode())], {"request_id": request_id}
        if trace is not None:
            added.append((_TRACE, trace.header.encode()))
            context |= {"trace_id": trace.trace_id, "span_id": trace.span_id}
        status: int | None = None

        async def add_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        set_log_fields(context)
        if part is None:
            await self.app(scope, receive, add_headers)
            return
        with within(part):
            try:
                await self.app(scope, receive, add_headers)
            finally:
                describe(part, scope, status)


def id_of(sent: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The first id that the client has sent; None if it is not safe to echo."""
    first = next((value.decode("latin-1") for name, value in sent if name == ID), "")
    return first if REQUEST_ID.fullmatch(first) else None


def _trace_of(sent: list[tuple[bytes, bytes]]) -> TraceContext | None:
    """The trace that the client has begun; None without a valid header, of which one is allowed."""
    traces = [value.decode("latin-1") for name, value in sent if name == _TRACE]
    return TraceContext.parse(traces[0]) if len(traces) == 1 else None


def _own_part(sent: TraceContext | None) -> TraceContext | None:
    return None if sent is None else TraceContext(sent.trace_id, random_hex(8), sent.flags)
