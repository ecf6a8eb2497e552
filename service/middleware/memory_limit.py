"""Bounds the memory of all request bodies that are read at the same time.

Each body is bounded (`body_limit`), but a thousand of them together are not. Only bytes that have
arrived are counted: if announced lengths were, two slow uploads would shut everyone else out. A
client that announces more than currently fits is refused at once rather than after the upload. No
client may hold more than half while others upload; a request on its own is always accepted.
"""

from collections import Counter
from collections.abc import Collection

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import QueueFull
from service.auth.principal import quota_key
from service.auth.scopes import matched_route
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
        self._budget = budget
        self._disk_paths = frozenset(disk_paths)
        self._taken: Counter[str] = Counter()  # bytes, by quota key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or scope["method"] in _BODYLESS
            or matched_route(scope).template in self._disk_paths
        ):
            await self.app(scope, receive, send)
            return
        client = quota_key(scope)
        if not self._has_room(client, _declared(scope["headers"]), 0):
            await problem_response(Request(scope), _full())(scope, receive, send)
            return
        mine = 0

        async def counted() -> Message:
            nonlocal mine
            message = await receive()
            more = len(message.get("body", b""))
            if more:
                if not self._has_room(client, more, mine):
                    raise _full()
                self._taken[client] += more
                mine += more
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self._taken[client] -= mine
            if not self._taken[client]:
                del self._taken[client]

    def _has_room(self, client: str, more: int, mine: int) -> bool:
        """Whether `more` bytes fit for a request that holds `mine` already."""
        taken, theirs = self._taken.total(), self._taken[client]
        if taken == mine:
            return True  # the only upload
        return taken + more <= self._budget and theirs + more <= self._budget // 2


def _declared(headers: list[tuple[bytes, bytes]]) -> int:
    """Bytes by the Content-Length header, or 0. A plain loop, as this runs for every upload."""
    for name, value in headers:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


def _full() -> QueueFull:
    return QueueFull("Too many uploads at once. Send it again soon.", retry_after=1)
