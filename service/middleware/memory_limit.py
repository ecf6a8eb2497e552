"""Bounds the memory of all request bodies that are read at the same time.

Each body is bounded by itself (`body_limit`), but a thousand of them are not. What has come is
what is charged: a length that was only announced takes no room, or two slow uploads would shut
everybody out. Who announces more than there is room for now is told at once and not after an
upload. Nobody may have more than half while others upload; a request alone is always taken.
"""

from collections import Counter
from collections.abc import Collection

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import QueueFull
from service.auth.principal import payer_of
from service.http.errors import problem

_BODYLESS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})


class UploadBudget:
    """429 for a body that would go over what all, or one caller, may have together.

    Args:
        app: What comes after.
        budget: Bytes.
        kept_on_disk: Addresses whose bodies go to the disk as they come, and take no memory.
    """

    def __init__(self, app: ASGIApp, budget: int, kept_on_disk: Collection[str] = ()) -> None:
        self.app = app
        self._budget = budget
        self._kept_on_disk = frozenset(kept_on_disk)
        self._taken: Counter[str] = Counter()  # bytes, by caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or scope["method"] in _BODYLESS
            or scope["path"] in self._kept_on_disk
        ):
            await self.app(scope, receive, send)
            return
        payer = payer_of(scope)
        if not self._has_room(payer, _declared(scope["headers"]), 0):
            await problem(Request(scope), _full())(scope, receive, send)
            return
        mine = 0

        async def counted() -> Message:
            nonlocal mine
            message = await receive()
            more = len(message.get("body", b""))
            if more:
                if not self._has_room(payer, more, mine):
                    raise _full()
                self._taken[payer] += more
                mine += more
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self._taken[payer] -= mine
            if not self._taken[payer]:
                del self._taken[payer]

    def _has_room(self, payer: str, more: int, mine: int) -> bool:
        """Whether so many bytes more fit for a request that holds `mine`."""
        taken, theirs = self._taken.total(), self._taken[payer]
        if taken == mine:
            return True  # alone
        return taken + more <= self._budget and theirs + more <= self._budget // 2


def _declared(headers: list[tuple[bytes, bytes]]) -> int:
    """Bytes, by the header; 0 where none says. In a loop of our own: it is run for every upload."""
    for name, value in headers:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


def _full() -> QueueFull:
    return QueueFull("Too many uploads at once. Send it again soon.", retry_after=1)
