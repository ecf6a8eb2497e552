"""What a trusted proxy says about the client: its address, its scheme and its path prefix.

The prefix, from `X-Forwarded-Prefix` or OPSIN_ROOT_PATH, is the path under which the proxy offers
this service. It is put before every `Location` and every URL in a response. OPSIN_ROOT_PATH is also
removed from the path of the request, in case the proxy has not done so. The header's is not: if the
proxy passed on what a client sends, the client would choose a path that the proxy's rules for paths
do not know.
"""

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from contracts.public_paths import PREFIX, is_prefix
from contracts.settings import Settings
from service.http.addresses import without_quotes

_HEADER = b"x-forwarded-prefix"


def forwarded(settings: Settings) -> list[Middleware]:
    """The middleware, if the settings name a proxy or a prefix."""
    if not settings.trusted_proxies and not settings.root_path:
        return []
    return [Middleware(Forwarded, settings.trusted_proxies, settings.root_path)]


class Forwarded:
    """Reads the headers of trusted proxies, and prefixes the URLs of responses.

    Args:
        app: The next ASGI application.
        trusted_proxies: Addresses and networks whose headers count.
        root_path: Removed from every path, and the prefix of requests without the header.
    """

    def __init__(
        self, app: ASGIApp, trusted_proxies: tuple[str, ...] = (), root_path: str = ""
    ) -> None:
        self.app = app
        self._root_path = root_path
        # uvicorn's middleware changes the client's address, so the prefix is read before it.
        self._addresses = ProxyHeadersMiddleware(
            self._serve,  # type: ignore[arg-type] # its types are narrower than Starlette's
            list(trusted_proxies),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        client = scope.get("client")
        is_trusted = client is not None and client[0] in self._addresses.trusted_hosts
        prefix = (prefix_of(scope["headers"]) if is_trusted else "") or self._root_path
        if is_trusted:
            scope = dict(scope) | {"headers": without_quotes(scope["headers"])}
        token = PREFIX.set(prefix)
        try:
            await self._addresses(scope, receive, send)  # type: ignore[arg-type] # as above
        finally:
            PREFIX.reset(token)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        prefix, root, path = PREFIX.get(), self._root_path, scope["path"]
        if not prefix:
            await self.app(scope, receive, send)
            return
        if root and (path == root or path.startswith(root + "/")):
            scope = dict(scope) | {"path": path[len(root) :] or "/"}

        async def send_prefixed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                location = headers.get("Location", "")
                if location.startswith("/") and not location.startswith("//"):
                    headers["Location"] = prefix + location
            await send(message)

        await self.app(scope, receive, send_prefixed)


def prefix_of(headers: list[tuple[bytes, bytes]]) -> str:
    """The prefix by the header; several proxies, outermost first, each add theirs after a comma."""
    sent = [value.decode("latin-1") for name, value in headers if name == _HEADER]
    parts = [part.strip().rstrip("/") for value in sent for part in value.split(",")]
    prefix = "".join(parts)
    return prefix if is_prefix(prefix) else ""
