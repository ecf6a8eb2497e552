"""Bounds the memory of all request bodies that are read at the same time.

Each body is bounded by itself (`body_limit`), but a thousand of them are not. A declared length is
reserved before a byte is read, so that who cannot be served is told at once and not after an
upload. A request alone is always taken, whatever the budget.
"""

from collections.abc import Collection

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import QueueFull
from service.problems import problem

_BODYLESS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})


class UploadBudget:
    """429 for a body that would go over what all may have together.

    Args:
        app: What comes after.
        budget: Bytes.
        kept_on_disk: Addresses whose bodies go to the disk as they come, and take no memory.
    """

    def __init__(self, app: ASGIApp, budget: int, kept_on_disk: Collection[str] = ()) -> None:
        self.app = app
        self._budget = budget
        self._kept_on_disk = frozenset(kept_on_disk)
        self._taken = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or scope["method"] in _BODYLESS
            or scope["path"] in self._kept_on_disk
        ):
            await self.app(scope, receive, send)
            return
        mine = _declared(scope["headers"])
        if not self._has_room(mine, 0):
            await problem(Request(scope), _full())(scope, receive, send)
            return
        self._taken += mine
        read = 0

        async def counted() -> Message:
            nonlocal mine, read
            message = await receive()
            read += len(message.get("body", b""))
            if read > mine:  # of an undeclared length: it is reserved as it comes
                if not self._has_room(read - mine, mine):
                    raise _full()
                self._taken += read - mine
                mine = read
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self._taken -= mine

    def _has_room(self, more: int, mine: int) -> bool:
        return self._taken == mine or self._taken + more <= self._budget


def _declared(headers: list[tuple[bytes, bytes]]) -> int:
    """Bytes, by the header; 0 where none says. In a loop of our own: it is run for every upload."""
    for name, value in headers:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


def _full() -> QueueFull:
    return QueueFull("Too many uploads at once. Send it again soon.", retry_after=1)
