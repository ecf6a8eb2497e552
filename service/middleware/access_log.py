"""One line for each request, and the last stop of an exception nobody expected.

The client of an unexpected exception reads `internal_error` and the request's id; the trace goes
to the log under the same id. The query is not logged: it may one day hold
what is nobody's business. A key in an address is masked.
"""

import asyncio
import time
from typing import Any

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import Draining, InternalError
from contracts.keys import KEY_IN_TEXT
from service.http.errors import CLIENT_CLOSED_REQUEST, problem

# Asked every few seconds by whatever supervises us; worth a line only when it goes wrong.
_QUIET = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})


class AccessLog:
    """Logs method, path, status and duration; answers 500 where the application raised."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._log: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.monotonic()
        # What remains if nothing is ever answered: the client went, or the server was stopped.
        status: int | None = None

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        log = self._bound()
        try:
            await self.app(scope, receive, note)
        except asyncio.CancelledError:
            # Only the server cancels a request here: its time to finish was over.
            if status is None:
                gone = Draining("The service is shutting down. Send it again.", retry_after=1)
                await problem(Request(scope), gone)(scope, receive, note)
            raise
        except Exception:
            log.exception("unexpected exception")
            if status is None:
                detail = "Something broke on our side. Report it with this request's id."
                answer = problem(Request(scope), InternalError(detail))
                await answer(scope, receive, note)
        finally:
            quiet = scope["path"] in _QUIET and status == 200
            (log.debug if quiet else log.info)(
                "request",
                method=scope["method"],
                path=KEY_IN_TEXT.sub("opsin_…", scope["path"]),
                status=status or CLIENT_CLOSED_REQUEST,
                duration_ms=round((time.monotonic() - started) * 1000, 1),
            )

    def _bound(self) -> Any:
        """The logger, put together once; not before the first request, when logging is set up."""
        if self._log is None:
            self._log = structlog.get_logger("service.access").bind()
        return self._log
