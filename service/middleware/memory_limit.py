"""Bounds the memory of all request bodies that are read at the same time.

Each body is bounded (`body_limit`), but a thousand of them together are not. Only bytes that have
arrived are counted: if announced lengths were, two slow uploads would shut everyone else out. A
client that announces more than currently fits is refused at once rather than after the upload.
"""

from collections.abc import Collection

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import QueueFull
from service.auth.principal import quota_key
from service.auth.scopes import matched_route
from service.fair_budget import FairBudget
from service.http.errors import problem_response

_BODYLESS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})


class UploadBudget:
    """429 for a body that would exceed what all clients, or one, may hold together.

    Args:
        app: The next ASGI application.
        budget: Bytes of all bodies together.
        disk_paths: Routes, by template, whose bodies are written to disk as they arrive and take no
            memory.
    """

    def __init__(self, app: ASGIApp, budget: int, disk_paths: Collection[str] = ()) -> None:
        self.app = app
        self._budget = FairBudget(budget, "Too many uploads at once. Send it again soon.")
        self._disk_paths = frozenset(disk_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or scope["method"] in _BODYLESS
            or matched_route(scope).template in self._disk_paths
        ):
            await self.app(scope, receive, send)
            return
        client = quota_key(scope)
        try:
            self._budget.require(client, _declared(scope["headers"]))
        except QueueFull as full:
            await problem_response(Request(scope), full)(scope, receive, send)
            return
        mine = 0

        async def counted() -> Message:
            nonlocal mine
            message = await receive()
            more = len(message.get("body", b""))
            if more:
                self._budget.take(client, more, mine)
                mine += more
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self._budget.give_back(client, mine)


def _declared(headers: list[tuple[bytes, bytes]]) -> int:
    """Bytes by the Content-Length header, or 0. A plain loop, as this runs for every upload."""
    for name, value in headers:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
