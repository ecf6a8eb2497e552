"""Refuses requests that add to the database while its disk is nearly full.

Rows are small, but a client can add them without end, and a disk without a free byte stops
everybody: no job can end any more, and nothing can be deleted. So a request that changes anything
needs room, whatever it writes, unless a rule says that it does not. Jobs and uploads are checked
again where they are stored, and leave more. PostgreSQL has a disk of its own, which is not known.
"""

import time
from fnmatch import fnmatchcase
from functools import cache
from typing import Literal

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from contracts.errors import DiskUnusable
from contracts.settings import Settings
from service.auth.scopes import matched_route
from service.http.errors import problem_response
from service.jobs.disk_room import Use, free_for_rows, require_free
from service.threads import run_in_threadpool

_Adds = Literal["nothing"] | Use

# Method, pattern of the route's template, what it adds; the first matching rule counts.
_RULES: tuple[tuple[str, str, _Adds], ...] = (
    # Whoever may read a person's data may do so while there is room for the line that says it.
    ("GET", "/v1/faces/subjects/*/export", "lines"),
    ("GET", "*", "nothing"),
    ("HEAD", "*", "nothing"),
    ("DELETE", "*", "nothing"),
    ("POST", "/v1/jobs/*/cancel", "nothing"),
    ("POST", "/v1/session", "nothing"),
    # Only an operator may, who may have to in order to make room.
    ("*", "/v1/keys*", "nothing"),
    ("PUT", "/v1/faces/threshold", "nothing"),
    ("PUT", "/v1/faces/policy", "nothing"),
    # The route asks for more room if the change is a large one.
    ("PATCH", "/v1/faces/subjects/*", "lines"),
    # In Redis, for a minute and a half.
    ("POST", "/v1/faces/challenges", "nothing"),
    # One line each of the audit log of faces.
    ("POST", "/v1/faces/login", "lines"),
    ("POST", "/v1/faces/identify", "lines"),
    ("POST", "/v1/faces/verify", "lines"),
    # Answered by workers; if they become jobs, these need room.
    ("POST", "/v1/faces/detect", "nothing"),
    ("POST", "/v1/classify", "nothing"),
    ("POST", "/v1/embed", "nothing"),
    ("POST", "/v1/heatmap", "nothing"),
    ("POST", "/v1/activations", "nothing"),
    ("POST", "/v1/filters", "nothing"),
    ("POST", "/v1/models/*:predict", "nothing"),
    ("POST", "/v1/models/*:classify", "nothing"),
    ("POST", "/v1/models/*:regress", "nothing"),
    ("*", "/v2/*", "nothing"),
    ("*", "*", "rows"),
)
_SECONDS = 1.0  # for which the room that was found counts


@cache
def additions_of(method: str, template: str) -> _Adds:
    """What requests to a route add to the database.

    Args:
        method: Of HTTP.
        template: The path of the route, e.g. `/v1/models/{name}`.
    """
    return next(
        adds
        for methods, pattern, adds in _RULES
        if methods in {"*", method} and fnmatchcase(template, pattern)
    )


class RowRoom:
    """Answers 503 instead of the application, before the body is read.

    Args:
        app: The next ASGI application.
        settings: The database, and how much room is kept.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._settings = settings
        self._free = 0
        self._until = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        template = matched_route(scope).template
        adds = additions_of(scope["method"], template) if template else "nothing"
        if adds != "nothing":
            try:
                await self._require(adds)
            except DiskUnusable as error:
                await problem_response(Request(scope), error)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _require(self, use: Use) -> None:
        if time.monotonic() >= self._until:
            self._free = await run_in_threadpool(free_for_rows, self._settings)
            self._until = time.monotonic() + _SECONDS
        require_free(self._settings, use, self._free)
