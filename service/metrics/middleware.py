"""Counts every request, just before the last byte of its response is sent.

A client that has its response therefore finds it counted. A request without a response, because its
client hung up, is counted when it ends.
"""

import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.metrics.registry import Metrics
from service.http.errors import CLIENT_CLOSED_REQUEST, code_of
from service.metrics.request_record import RequestRecord, recording

_OUTCOMES = {
    400: "invalid",
    404: "invalid",
    409: "invalid",
    413: "invalid",
    415: "invalid",
    422: "invalid",
    401: "rejected",
    403: "rejected",
    429: "rejected",
    CLIENT_CLOSED_REQUEST: "cancelled",
    503: "unavailable",
    504: "deadline",
}


class RequestMetrics:
    """Counts requests; `RequestId` has set the time of arrival."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services = getattr(scope["app"].state, "services", None) if "app" in scope else None
        if scope["type"] != "http" or services is None:
            await self.app(scope, receive, send)
            return
        metrics: Metrics = services.metrics
        request = CountedRequest(scope["state"], metrics)

        async def count_then_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
            elif not message.get("more_body", False):
                request.count()
            await send(message)

        metrics.inc("http_requests_in_progress")
        try:
            with recording(request.record):
                await self.app(scope, receive, count_then_send)
        finally:
            metrics.inc("http_requests_in_progress", by=-1)
            request.count()


class KeepRoute:
    """The innermost middleware: keeps the scope in which the router notes the route."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope["state"]
        state["routed"] = scope
        try:
            await self.app(scope, receive, send)
        finally:
            # Not the scope, which only the garbage collector would free.
            state["routed"] = {"route": scope.get("route")}


class CountedRequest:
    """One request until it is counted.

    Args:
        state: Of its scope. It has the time of arrival, and will have the route and, for an error,
            the code.
        metrics: Where it is counted.

    Attributes:
        record: Notes about it, also in its state.
        status: Of its response.
    """

    def __init__(self, state: dict[str, Any], metrics: Metrics) -> None:
        self.record = state["record"] = RequestRecord()
        self.status = CLIENT_CLOSED_REQUEST
        self._state = state
        self._metrics = metrics
        self._counted = False

    def count(self) -> None:
        """Count it, once."""
        if self._counted:
            return
        self._counted = True
        metrics, status = self._metrics, self.status
        seconds = time.monotonic() - self._state["arrived"]
        operation = operation_of(self._state)
        metrics.inc("http_requests_total", operation, str(status))
        metrics.observe("http_request_seconds", seconds, operation)
        code = "" if status < 400 else code_of(self._state, status)
        if status == 429:
            metrics.inc("refused_requests_total", code)
        for record in (self.record, *self.record.parts):
            for name, labels, by in record.counts:
                metrics.inc(name, *labels, by=by)
        for record in self.record.asked:
            self._count_inference(record, seconds, *(record.failure or (status, code)))

    def _count_inference(
        self, record: RequestRecord, seconds: float, status: int, code: str
    ) -> None:
        metrics = self._metrics
        queue = (record.model, record.version, record.operation or "")
        outcome = "success" if status < 400 else _OUTCOMES.get(status, "error")
        metrics.inc("requests_total", *queue, outcome, code)
        metrics.observe("request_seconds", seconds, *queue)
        for decoding, error in record.decoded:
            metrics.observe("decode_seconds", decoding, *queue)
            if error:
                metrics.inc("images_total", *queue, error)
        for error in record.answered:
            metrics.inc("images_total", *queue, error)
        if record.render_seconds is not None:
            metrics.observe("render_seconds", record.render_seconds, *queue)


def operation_of(state: dict[str, Any]) -> str:
    """The route's id in the OpenAPI document; "none" if the request was refused before."""
    route = state.get("routed", {}).get("route")
    if route is None:
        return "none"
    return str(getattr(route, "operation_id", None) or getattr(route, "name", None) or "none")
