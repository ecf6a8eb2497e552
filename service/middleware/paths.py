"""Serves HEAD wherever GET is served, and paths with one slash too many at their end.

Monitors send HEAD, and clients that join URLs add slashes. Both are mended before the key is
checked, so that the path that is checked is the one that is routed. Slashes in a row are not
merged: a proxy's rules for paths would not see the path that is served.
"""

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_DOCS = "/docs/"  # the page's relative URLs are wrong below this path


class Paths:
    """Rewrites method and path; a client of HEAD receives the headers of GET."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            # A copy: the server has to know that it sends no body.
            scope, send = dict(scope) | {"method": "GET"}, _head_only(send)
        path: str = scope["path"]
        if path == _DOCS and scope["method"] == "GET":
            await RedirectResponse("../docs", status_code=308)(scope, receive, send)
            return
        if path.endswith("/") and path != "/" and not path.endswith("//"):
            scope = dict(scope) | {"path": path[:-1]}
        await self.app(scope, receive, send)


def _head_only(send: Send) -> Send:
    """Ends the response after its headers; to the application, the client has then gone."""

    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return send_head
