"""Keeps the cookies of the console and drops all others before anything parses them.

FastAPI parses the cookies of every request, whether a route wants them or not, on the event loop
and without a key. Python's parser takes quadratic time for a value of quotes (CVE-2024-7592): 62 kB
of them stopped a process for five seconds.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from service.auth.sessions import COOKIE_NAMES
from service.console.page import LANGUAGE_COOKIE

_COOKIE = b"cookie"
_MAX_VALUE = 64  # bytes; a session's token has 43
_KEPT = frozenset(name.encode() for name in (*COOKIE_NAMES, LANGUAGE_COOKIE))


class Cookies:
    """Rewrites the header `Cookie`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and any(name == _COOKIE for name, _ in scope["headers"]):
            headers = [
                (name, _ours(value) if name == _COOKIE else value)
                for name, value in scope["headers"]
            ]
            scope = dict(scope) | {"headers": headers}
        await self.app(scope, receive, send)


def _ours(header: bytes) -> bytes:
    kept = []
    for item in header.split(b";"):
        name, _, value = item.strip().partition(b"=")
        if name in _KEPT and len(value) <= _MAX_VALUE:
            kept.append(name + b"=" + value)
    return b"; ".join(kept)
