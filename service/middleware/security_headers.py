"""Headers that keep a browser from doing more with a response than displaying it."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), geolocation=(), microphone=(), payment=(), usb=()"),
)
# Shared caches know `Authorization` but not X-API-Key: they could serve one client's response to
# another. Responses that may be cached set the header themselves.
_PRIVATE = (b"cache-control", b"no-store")
_POLICY = b"content-security-policy"
API_HEADERS = (*_HEADERS, _PRIVATE, (_POLICY, b"default-src 'none'; frame-ancestors 'none'"))
# Swagger UI uses inline styles and data: icons; its scripts are our own files.
_DOCS = (
    *_HEADERS,
    (
        _POLICY,
        b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data:; connect-src 'self'; font-src 'self'; base-uri 'none'; "
        b"form-action 'none'; frame-ancestors 'none'",
    ),
)


class SecurityHeaders:
    """Adds the headers to every response that does not set them itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_docs = scope["path"] == "/docs" or scope["path"].startswith("/docs/")
        defaults = _DOCS if is_docs else API_HEADERS

        async def add_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                # On the raw lower-case bytes, as this runs for every response.
                headers = list(message.get("headers", ()))
                names = {name.lower() for name, _ in headers}
                message["headers"] = headers + [item for item in defaults if item[0] not in names]
            await send(message)

        await self.app(scope, receive, add_headers)
