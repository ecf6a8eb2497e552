"""Headers that keep a browser from doing more with an answer than show it."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), geolocation=(), microphone=(), payment=(), usb=()"),
)
# A cache on the way knows `Authorization`, and nothing of X-API-Key: it could show one client's
# answer to another. What may be kept says so itself.
_PRIVATE = (b"cache-control", b"no-store")
_POLICY = b"content-security-policy"
_NOTHING = (*_HEADERS, _PRIVATE, (_POLICY, b"default-src 'none'; frame-ancestors 'none'"))
# Swagger UI draws with inline styles and data: icons; its scripts are files of ours.
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
    """Adds the headers to every answer that does not set them itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        ours = _DOCS if scope["path"].startswith("/docs") else _NOTHING

        async def harden(message: Message) -> None:
            if message["type"] == "http.response.start":
                # As they are sent, in lower-case bytes: this is done for every answer.
                given = list(message.get("headers", ()))
                names = {name.lower() for name, _ in given}
                message["headers"] = given + [one for one in ours if one[0] not in names]
            await send(message)

        await self.app(scope, receive, harden)
