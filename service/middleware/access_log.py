"""Logs one line for each request, and answers unexpected exceptions.

The client of an unexpected exception receives `internal_error` and the request's id; the traceback
is logged with the same id. Query strings are not logged, as they might hold private data; keys in
paths are masked, and long paths are cut. Lines of clients without a key are limited by address,
and so are those of refusals with 429, each of which would cost a tenth of an answer.
"""

import asyncio
import time
from typing import Any

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import Draining, InternalError
from contracts.keys import KEY_IN_TEXT
from service.connections.line_limit import LineLimit
from service.http.addresses import network_of
from service.http.errors import CLIENT_CLOSED_REQUEST, problem_response

_MAX_PATH = 256
_REFUSED = 429
# Probed every few seconds; worth a line only when they fail.
_QUIET = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})


class AccessLines:
    """Writes the line of each request."""

    def __init__(self) -> None:
        self._log: Any = None
        self._limit = LineLimit()

    def write(self, scope: Scope, status: int | None, seconds: float) -> None:
        """Write the line of a request that was answered after so long; None if it was not."""
        is_limited = status == _REFUSED or "principal" not in scope.get("state", {})
        if is_limited and not self._limit.allows(_network(scope)):
            return
        quiet = scope["path"] in _QUIET and status == 200
        (self.log.debug if quiet else self.log.info)(
            "request",
            method=scope["method"],
            path=shown_path(scope["path"]),
            status=status or CLIENT_CLOSED_REQUEST,
            duration_ms=round(seconds * 1000, 1),
            **_served(scope),
        )

    @property
    def log(self) -> Any:
        """The logger, bound once at the first request, when logging is configured."""
        if self._log is None:
            self._log = structlog.get_logger("service.access").bind()
        return self._log


class AccessLog:
    """Logs method, path, status and duration; answers 500 if the application raised."""

    def __init__(self, app: ASGIApp, lines: AccessLines) -> None:
        self.app = app
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.monotonic()
        # Stays None if there is no response: the client hung up, or the server was stopped.
        status: int | None = None

        async def record_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, record_status)
        except asyncio.CancelledError:
            # Only the server cancels a request here: the time to finish was over.
            if status is None:
                error = Draining("The service is shutting down. Send it again.", retry_after=1)
                await problem_response(Request(scope), error)(scope, receive, record_status)
            raise
        except Exception:
            self._lines.log.exception("unexpected exception")
            if status is None:
                detail = "An internal error occurred. Report it with this request's id."
                response = problem_response(Request(scope), InternalError(detail))
                await response(scope, receive, record_status)
        finally:
            self._lines.write(scope, status, time.monotonic() - started)


def _served(scope: Scope) -> dict[str, str]:
    """The model, version and operation of an inference request, and the code of an error.

    Several models and versions are separated by commas.
    """
    state = scope.get("state", {})
    record = state.get("record")
    fields = {"code": state.get("error_code")}
    if record is not None and record.asked:
        fields |= {
            "model": ",".join(one.model for one in record.asked),
            "version": ",".join(one.version for one in record.asked),
            "operation": record.asked[0].operation,
        }
    return {name: value for name, value in fields.items() if value}


def _network(scope: Scope) -> str:
    client = scope.get("client")
    return network_of(client[0]) if client else ""


def shown_path(path: str) -> str:
    """A path as it may be recorded: with keys masked, and cut."""
    masked = KEY_IN_TEXT.sub("opsin_…", path)
    return masked if len(masked) <= _MAX_PATH else f"{masked[:_MAX_PATH]}…"
