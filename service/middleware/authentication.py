"""Admits requests whose key has the required scope, before a byte of the body is read.

On loopback, as long as no key was ever created, the service is open to this machine. It then
refuses requests of other sites' pages in a browser here, requests for a host name that merely
resolves to this machine (DNS rebinding), and requests that a proxy here forwards for others.
"""

import ipaddress
import re
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    OpsinError,
    RateLimited,
    Unauthorized,
)
from contracts.keys import KEY_IN_TEXT
from contracts.keys import Scope as KeyScope
from service.auth.failed_auth import FailedAttempts
from service.auth.key_cache import KeyCache
from service.auth.principal import Principal
from service.auth.rate_limit import RateLimits, policy_of, state_of
from service.auth.scopes import ANY, PUBLIC, ScopeTable
from service.http.errors import no_route_response, problem_response

_TWICE = "Send one key, once: as `Authorization: Bearer <key>` or as `X-API-Key: <key>`."
_KEY_IN_URL = (
    "Do not put a key in a URL, which ends up in logs and histories: revoke it, and send "
    "the new one as `Authorization: Bearer <key>`."
)
_KEY_IN_QUERY = re.compile(
    rb"(?i)(?:^|&)(?:x[-_])?(?:api[-_]?key|access[-_]?token|authorization)=|opsin_[0-9a-f]{12}_"
)
_MAX_CREDENTIAL_BYTES = 512
# C0, DEL, C1 and Unicode's line separators: no path of ours has one, and routers, logs and proxies
# read each of them differently. A `$` in a pattern also matches before a final line feed.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PROXIED = re.compile(rb"forwarded|x-forwarded-.+|x-real-ip")


class Authentication:
    """Answers 401, 403 or 429 instead of the application where that is due.

    Sets ``request.state.principal``, a `service.auth.principal.Principal`, except for public paths.
    Reads `scope_table` and, once the application has started, `services` of the application's
    state.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._failed = FailedAttempts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # other kinds of connection, such as WebSockets, are not served
        try:
            _require_plain(scope["path"])
        except OpsinError as error:
            await problem_response(Request(scope), error)(scope, receive, send)
            return
        state = scope["app"].state
        scope_table: ScopeTable = state.scope_table
        access = scope_table.required_scopes(scope["method"], scope["path"])
        if access == PUBLIC:
            await self.app(scope, receive, send)
            return
        try:
            principal = self._authenticate(scope, state.services.key_cache)
            await _authorize(
                principal, ANY if access is None else access, state.services.rate_limits
            )
        except OpsinError as error:
            response = problem_response(Request(scope), error, headers=_headers(error))
            await response(scope, receive, send)
            return
        if access is None:  # refused here, whatever the router would find: no rule covers it
            await no_route_response(Request(scope))(scope, receive, send)
            return
        scope["state"]["principal"] = principal
        policy = policy_of(principal)
        await self.app(scope, receive, _with_policy(send, policy) if policy else send)

    def _authenticate(self, scope: Scope, key_cache: KeyCache) -> Principal:
        """Who sends the request.

        Raises:
            OpsinError: It has no valid key, or may not be answered without one.
        """
        if scope["query_string"] and _KEY_IN_QUERY.search(scope["query_string"]):
            raise BadRequest(_KEY_IN_URL)
        if (anonymous := key_cache.anonymous) is not None:
            _require_this_machine(scope["headers"])
            return anonymous
        credential = _credential(scope["headers"])
        if credential is None:
            raise key_cache.refusal()
        host = scope["client"][0] if scope.get("client") else ""
        # The key first: a client with a valid one is not refused for what others send from there.
        try:
            return key_cache.authenticate(credential)
        except Unauthorized:
            self._failed.record(host, credential)
            raise


async def _authorize(
    principal: Principal, scopes: tuple[KeyScope, ...], limits: RateLimits
) -> None:
    # In this order: what a key may not do at all does not count against its rate limit.
    principal.require(*scopes)
    if principal.rate_per_minute is not None:
        await limits.take(principal)


def _require_plain(path: str) -> None:
    """Refuse paths that no legitimate client sends.

    Raises:
        NotFound: The path contains a control character.
        BadRequest: It contains a key.
    """
    if _CONTROL.search(path):
        raise NotFound("No path has control characters in it. Check how the URL is built.")
    if KEY_IN_TEXT.search(path):
        raise BadRequest(_KEY_IN_URL)


def _credential(headers: list[tuple[bytes, bytes]]) -> str | None:
    """The key that was sent, in either of the two ways; None without one, or in another way.

    Raises:
        Unauthorized: Two were sent.
    """
    credential = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, sent = value.partition(b" ")
            sent = sent.strip() if scheme.lower() == b"bearer" else b""
        elif name == b"x-api-key":
            sent = value.strip()
        else:
            continue
        if credential is not None:
            raise Unauthorized(_TWICE)
        if not sent or len(sent) > _MAX_CREDENTIAL_BYTES:
            return None
        credential = sent.decode("latin-1")
    return credential


def _require_this_machine(headers: list[tuple[bytes, bytes]]) -> None:
    """Refuse requests that reach this machine on behalf of others.

    Raises:
        Forbidden: The request comes from another site's page, for another host name, or through a
            proxy.
    """
    for name, value in headers:
        if _PROXIED.fullmatch(name):
            raise Forbidden(
                "Without keys, requests through a proxy are refused, since they may come from "
                "anywhere. Create a key with `opsin keys create`."
            )
        if name == b"host":
            is_local = _is_loopback("//" + value.decode("latin-1"))
        elif name == b"origin":
            is_local = _is_loopback(value.decode("latin-1"))
        elif name == b"sec-fetch-site":
            is_local = value != b"cross-site"
        else:
            continue
        if not is_local:
            raise Forbidden(
                "Without keys, only programs and pages of this machine are served, at localhost. "
                "Create a key with `opsin keys create` to open the service to others."
            )


def _is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _headers(error: OpsinError) -> dict[str, str]:
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": 'Bearer realm="opsin"'}
    return {"RateLimit": state_of(error)} if isinstance(error, RateLimited) else {}


def _with_policy(send: Send, policy: bytes) -> Send:
    async def add_policy(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers: list[Any] = list(message.get("headers", ()))
            message["headers"] = [*headers, (b"ratelimit-policy", policy)]
        await send(message)

    return add_policy
