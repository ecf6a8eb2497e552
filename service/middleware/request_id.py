"""Gives every request an id, sent with the response and in all log lines, and an arrival time.

A request that is part of a distributed trace (W3C Trace Context) carries `traceparent`. Its log
lines then name the trace, and the response carries the header with an id for this request's part:
that of its span if the request is traced.
"""

import secrets
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.tracing.origin import REQUEST_ID, Origin, TraceContext, set_origin
from contracts.tracing.spans import is_tracing, within
from service.middleware.request_span import begin_span, describe

HEADER = "X-Request-Id"
TRACE_HEADER = "traceparent"


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
        request_id = sent if REQUEST_ID.fullmatch(sent) else secrets.token_hex(16)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["arrived"] = time.monotonic()
        sent_trace = _trace_of(headers)
        part = begin_span(scope, sent_trace) if is_tracing() else None
        trace = _own_part(sent_trace) if part is None else part.context
        set_origin(Origin(request_id, trace))
        added, context = {HEADER: request_id}, {"request_id": request_id}
        if trace is not None:
            added[TRACE_HEADER] = trace.header
            context |= {"trace_id": trace.trace_id, "span_id": trace.span_id}
        status: int | None = None

        async def add_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                response_headers = MutableHeaders(scope=message)
                for name, value in added.items():
                    response_headers[name] = value
            await send(message)

        with structlog.contextvars.bound_contextvars(**context):
            if part is None:
                await self.app(scope, receive, add_headers)
                return
            with within(part):
                try:
                    await self.app(scope, receive, add_headers)
                finally:
                    describe(part, scope, status)


def _trace_of(headers: Headers) -> TraceContext | None:
    """The trace that the client has begun; None without a valid header, of which one is allowed."""
    sent = headers.getlist(TRACE_HEADER)
    return TraceContext.parse(sent[0]) if len(sent) == 1 else None


def _own_part(sent: TraceContext | None) -> TraceContext | None:
    return None if sent is None else TraceContext(sent.trace_id, secrets.token_hex(8), sent.flags)
