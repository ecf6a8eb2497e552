"""Lets in who shows the key. Without a key set, the service is open and only on loopback."""

import secrets

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from contracts.errors import Unauthorized
from service.problems import problem

# Probes carry no key, and a browser cannot send one when it opens the documentation; neither
# tells more than the source code does.
_OPEN = frozenset(
    {
        *("/", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/docs"),
        *("/openapi.json", "/.well-known/jwks.json"),
    }
)
_DETAIL = "Send the key as `Authorization: Bearer <key>` or `X-API-Key: <key>`."


class KeyCheck:
    """Answers 401 to a request that does not carry the key."""

    def __init__(self, app: ASGIApp, key: SecretStr | None) -> None:
        self.app = app
        self._key = key.get_secret_value().encode() if key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._lets_in(scope):
            await self.app(scope, receive, send)
            return
        refused = problem(
            Request(scope), Unauthorized(_DETAIL), headers={"WWW-Authenticate": "Bearer"}
        )
        await refused(scope, receive, send)

    def _lets_in(self, scope: Scope) -> bool:
        path: str = scope["path"]
        if self._key is None or path in _OPEN or path.startswith("/docs/"):
            return True
        return secrets.compare_digest(_shown(Headers(scope=scope)).encode("latin-1"), self._key)


def _shown(headers: Headers) -> str:
    scheme, _, credentials = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    return headers.get("X-API-Key", "")
