"""Refuses at once what a full queue has just refused.

At three times the peak load most requests are refused, and what is spent on them is missing for the
others. Most of that goes into finding out, for the same client and the same headers, what was known
a moment ago. Here only the queue is asked, as the handler asks it, and the same response is sent.
"""

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from time import sleep
from typing import cast

from starlette.types import ASGIApp, Receive, Scope, Send

from contracts.errors import QueueFull
from contracts.inference.inference import Operation
from contracts.logs import set_log_fields
from contracts.queue.redis_keys import QueueName
from contracts.random_bytes import random_hex
from contracts.tracing.spans import is_tracing
from service.auth.key_cache import KeyCache
from service.auth.principal import Principal
from service.connections.fast_route import SPECIAL_HEADERS, FastRoute
from service.dependencies import Services
from service.http.deadlines import default_deadline
from service.http.errors import problem_message
from service.inference.fair_pool import CALLER, Caller
from service.metrics.middleware import CountedRequest
from service.metrics.request_record import RequestRecord
from service.middleware.access_log import AccessLines
from service.middleware.request_id import ID, id_of
from service.middleware.security_headers import API_HEADERS

_SECONDS = 0.5  # after which a request is handled in full, as anything else may have changed
_GATHER_SECONDS = 0.002
_CROWD = 4  # requests that come together
_MAX_KNOWN = 1024
_MAX_HEADERS = 32
_MAX_BYTES = 2048  # of path, query and headers
_STATUS = 429
# Those of a page are answered with more headers, and those of a trace belong to a span.
_IN_FULL = SPECIAL_HEADERS | {b"origin", b"traceparent"}

_Key = tuple[str | bytes, ...]


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What was refused: for whom, by which queue and until when it is remembered."""

    queue: QueueName
    route: FastRoute
    principal: Principal
    caller: Caller
    until: float


class FullQueues:
    """Answers 429 to a request like one that was refused less than half a second ago.

    Only requests without a limit of their own rate are remembered, as that counts each of them.

    Args:
        app: The next ASGI application.
        lines: Writes the line of each request.
        limit: Maximum bytes of a body, above which a request is refused for that.
    """

    def __init__(self, app: ASGIApp, lines: AccessLines, limit: int) -> None:
        self.app = app
        self._lines = lines
        self._limit = limit
        self._known: OrderedDict[_Key, _Refusal] = OrderedDict()
        self._refused = 0  # since requests were last let come together
        self._until = 0.0  # of the last of them

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        now = time.monotonic()
        known = self._known_of(scope, now)
        if known is not None:
            services: Services = scope["app"].state.services
            CALLER.set(known.caller)
            try:
                deadline = default_deadline(now, services.settings)
                services.dispatcher.require_room(known.queue, deadline.at)
            except QueueFull as error:
                await self._refuse(scope, send, known, error, now)
                return
        await self.app(scope, receive, send)
        if scope["state"].get("error_code") == QueueFull.code:
            self._remember(scope)

    def _known_of(self, scope: Scope, now: float) -> _Refusal | None:
        """The last refusal of a request like this one, if it still counts."""
        if now >= self._until or (key := _key_of(scope, self._limit)) is None:
            return None
        known = self._known.get(key)
        if known is None or now >= known.until:
            return None
        keys: KeyCache = scope["app"].state.services.key_cache
        return known if keys.is_valid(known.principal) else None

    async def _refuse(
        self, scope: Scope, send: Send, known: _Refusal, error: QueueFull, arrived: float
    ) -> None:
        request_id = id_of(scope["headers"]) or random_hex(16)
        set_log_fields({"request_id": request_id})
        state, queue = scope.setdefault("state", {}), known.queue
        state |= {
            "request_id": request_id,
            "arrived": arrived,
            "routed": {"route": known.route},
            "error_code": error.code,
        }
        counted = CountedRequest(state, scope["app"].state.services.metrics)
        counted.record.chosen(queue.operation, queue.model, queue.version)
        counted.status = _STATUS
        headers, body = problem_message(error, request_id)
        added = [*API_HEADERS, (ID, request_id.encode())]
        await send({"type": "http.response.start", "status": _STATUS, "headers": headers + added})
        counted.count()
        await send({"type": "http.response.body", "body": body})
        self._lines.write(scope, _STATUS, time.monotonic() - arrived)
        if not self._refused:
            asyncio.get_running_loop().call_soon(self._gather)
        self._refused += 1

    def _gather(self) -> None:
        """Let the next requests come together, unless they do so by themselves.

        Where all processors compute, each one that comes alone takes one away from a worker and
        finds its caches full of the worker's data: it costs three times as much. The event loop
        stops meanwhile, for a moment that is short beside the wait in a full queue.
        """
        if self._refused < _CROWD:
            sleep(_GATHER_SECONDS)
        self._refused = 0

    def _remember(self, scope: Scope) -> None:
        state = scope["state"]
        route, record = state.get("routed", {}).get("route"), cast(RequestRecord, state["record"])
        if not isinstance(route, FastRoute) or not record.version or record.parts:
            return  # refused by something else than the queue of one version
        principal, key = cast(Principal, state["principal"]), _key_of(scope, self._limit)
        if key is None or principal.rate_per_minute is not None or is_tracing():
            return
        queue = QueueName(record.model, int(record.version), cast(Operation, record.operation))
        self._until = time.monotonic() + _SECONDS
        self._known.pop(key, None)
        self._known[key] = _Refusal(queue, route, principal, CALLER.get(), self._until)
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)


def _key_of(scope: Scope, limit: int) -> _Key | None:
    """What two requests have in common that are refused alike; None if that is not known.

    These are all headers, except for the request's id and what is not looked at before the queue
    is: the length of the body, and the boundary of a form.
    """
    headers, client = scope["headers"], scope["client"]
    if len(headers) > _MAX_HEADERS:
        return None
    parts: list[str | bytes] = [scope["http_version"], client[0] if client else ""]
    parts += (scope["path"], scope["query_string"])
    size = len(scope["path"]) + len(scope["query_string"])
    for name, value in headers:
        if name == b"content-length":
            if int(value) > limit:
                return None
        elif name in _IN_FULL:
            return None
        elif name != ID:
            parts += (name, value.partition(b";")[0] if name == b"content-type" else value)
            size += len(name) + len(value)
    return tuple(parts) if size <= _MAX_BYTES else None
