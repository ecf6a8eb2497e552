"""Admits requests whose key has the required scope, before a byte of the body is read.

On loopback, as long as no key was ever created, the service is open to this machine. It then
refuses requests of other sites' pages in a browser here, requests for a host name that merely
resolves to this machine (DNS rebinding), and requests that a proxy here forwards for others.
"""

import ipaddress
import itertools
import re
from collections.abc import Collection, Sequence
from functools import lru_cache
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
from service.auth.principal import Principal, quota_key
from service.auth.rate_limit import RateLimits, policy_of, state_of
from service.auth.scopes import ANY, PUBLIC, ScopeTable
from service.dependencies import Services
from service.http.errors import no_route_response, problem_response
from service.http.origins import origin_pattern
from service.inference.fair_pool import CALLER, Caller
from service.threads import CHANGES

_TWICE = "The request has two different keys. Send one of them."
_SCHEME = "The Authorization header has no `Bearer <key>`; Basic, Token and others are not read."
_KEY_IN_URL = (
    "Do not put a key in a URL, which ends up in logs and histories: revoke it, and send "
    "the new one as `Authorization: Bearer <key>`."
)
_KEY_IN_QUERY = re.compile(
    rb"(?i)(?:^|&)(?:x[-_])?(?:api[-_]?key|access[-_]?token|authorization)=|opsin_[0-9a-f]{12}_"
)
_MAX_CREDENTIAL_BYTES = 4096  # a mesh's own token may stand beside the key
_MAX_CREDENTIALS = 4
_READING = frozenset({"GET", "HEAD"})
# C0, DEL, C1 and Unicode's line separators: no path of ours has one, and routers, logs and proxies
# read each of them differently. A `$` in a pattern also matches before a final line feed.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PROXIED = re.compile(
    rb"forwarded|via|x-(original-)?forwarded-.+|x-(real|client|cluster-client|original)-ip"
    rb"|(true-client|cf-connecting|fastly-client|fly-client)-ip|x-envoy-.+"
)


class Authentication:
    """Answers 401, 403 or 429 instead of the application where that is due.

    Sets ``request.state.matched``, a `service.auth.scopes.MatchedRoute`, if a route matches, and
    ``request.state.principal``, a `service.auth.principal.Principal`, except for public paths.
    Reads `scope_table` and, once the application has started, `services` of the application's
    state.

    Args:
        app: The next ASGI application.
        origins: Origins whose pages may use an open service, as in OPSIN_CORS_ORIGINS.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str] = ()) -> None:
        self.app = app
        self._failed = FailedAttempts()
        self._numbers = itertools.count(1)
        self._origins = origin_pattern(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # other kinds of connection, such as WebSockets, are not served
        try:
            _require_plain(scope["path"])
            _require_one_host(scope)
        except OpsinError as error:
            await problem_response(Request(scope), error)(scope, receive, send)
            return
        state = scope["app"].state
        scope_table: ScopeTable = state.scope_table
        matched = scope_table.find(scope["method"], scope["path"])
        if matched is not None:
            scope["state"]["matched"] = matched
        if matched is not None and matched.access == PUBLIC:
            await self.app(scope, receive, send)
            return
        try:
            await state.services.changes.require_current()
            principal = await self._authenticate(scope, state.services)
            await _authorize(
                principal, ANY if matched is None else matched.access, state.services.rate_limits
            )
        except OpsinError as error:
            response = problem_response(Request(scope), error, headers=_headers(error))
            await response(scope, receive, send)
            return
        if matched is None:  # refused here, whatever the router would find: no rule covers it
            await no_route_response(Request(scope))(scope, receive, send)
            return
        scope["state"]["principal"] = principal
        CALLER.set(Caller(quota_key(scope), next(self._numbers)))
        CHANGES.set(scope["method"] not in _READING)
        policy = policy_of(principal)
        await self.app(scope, receive, _with_policy(send, policy) if policy else send)

    async def _authenticate(self, scope: Scope, services: Services) -> Principal:
        """Who sends the request.

        Raises:
            OpsinError: It has no valid key, or may not be answered without one.
        """
        if scope["query_string"] and _KEY_IN_QUERY.search(scope["query_string"]):
            raise BadRequest(_KEY_IN_URL)
        key_cache = services.key_cache
        if (anonymous := key_cache.anonymous) is not None:
            _require_this_machine(scope, self._origins)
            return anonymous
        credentials, has_other_scheme = _credentials(scope["headers"])
        if not credentials and (session := await services.sessions.find(scope)) is not None:
            scope["state"]["session"] = session
            return session.principal
        if not credentials:
            raise key_cache.refusal(_SCHEME) if has_other_scheme else key_cache.refusal()
        host = scope["client"][0] if scope.get("client") else ""
        if any(key_cache.is_unknown(credential) for credential in credentials):
            await services.changes.check("keys")
        return self._only_principal(credentials, host, key_cache)

    def _only_principal(
        self, credentials: Sequence[str], host: str, key_cache: KeyCache
    ) -> Principal:
        """The one to whom the valid keys among these belong.

        Raises:
            Unauthorized: None of them is valid, or two are.
            RateLimited: None of them is, and too many came from that address before.
        """
        found, refusal = set[Principal](), None
        for credential in credentials:
            try:
                found.add(key_cache.authenticate(credential))
            except Unauthorized as error:
                refusal = error
        if len(found) > 1:
            raise Unauthorized(_TWICE)
        # A client with a valid key is not refused for what others send from there.
        if not found:
            for credential in credentials:
                self._failed.record(host, credential)
            raise refusal or key_cache.refusal()
        return found.pop()


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


def _require_one_host(scope: Scope) -> None:
    """Refuse requests that two servers could take to be for different hosts (RFC 9112, 3.2).

    Raises:
        BadRequest: A request of HTTP/1.1 has no Host header, or several.
    """
    count = sum(name == b"host" for name, _ in scope["headers"])
    if count > 1 or (count == 0 and scope["http_version"] == "1.1"):
        raise BadRequest("Send exactly one Host header.")


def _credentials(headers: list[tuple[bytes, bytes]]) -> tuple[list[str], bool]:
    """What may be keys, and whether something was sent under another scheme.

    A proxy or a mesh may add a credential of its own, which is none of ours.

    Raises:
        Unauthorized: There are too many.
    """
    sent, other = [], False
    for name, value in headers:
        if name == b"authorization":
            scheme, _, credential = value.strip().partition(b" ")
            is_bearer = scheme.lower() == b"bearer"
            other = other or (bool(value.strip()) and not is_bearer)
            sent.append(credential.strip() if is_bearer else b"")
        elif name == b"x-api-key":
            sent.append(value.strip())
    credentials = list(dict.fromkeys(c for c in sent if 0 < len(c) <= _MAX_CREDENTIAL_BYTES))
    if len(credentials) > _MAX_CREDENTIALS:
        raise Unauthorized(_TWICE)
    return [credential.decode("latin-1") for credential in credentials], other


_CREATE = (
    "Create a key with `opsin keys create`, or set OPSIN_API_KEY, to open the service to others."
)


def _require_this_machine(scope: Scope, origins: re.Pattern[str] | None) -> None:
    """Refuse requests that reach this machine on behalf of others.

    Raises:
        Forbidden: The request comes from another site's page, for another host name, or through a
            proxy.
    """
    sent = {name: value.decode("latin-1") for name, value in scope["headers"]}
    if (sign := _sign_of_proxy(scope["http_version"], sent)) is not None:
        raise Forbidden(
            f"Without keys, requests through a proxy ({sign}) are refused, "
            f"since they may come from anywhere. {_CREATE}"
        )
    host, origin = sent.get(b"host"), sent.get(b"origin")
    if host is not None and not _is_loopback("//" + host):
        raise Forbidden(
            "Without keys, only this machine is served, under the names localhost and 127.0.0.1. "
            f"The Host header says {host[:100]!r}, so the request may come from elsewhere or from "
            f"a page that was made to look local (DNS rebinding). {_CREATE}"
        )
    if origin is not None and origins is not None and origins.fullmatch(origin):
        return
    if origin is not None and not _is_loopback(origin):
        raise Forbidden(
            "Without keys, only pages of this machine are served; this one is of "
            f"{origin[:100]!r}. {_CREATE} OPSIN_CORS_ORIGINS names the pages that may call it."
        )
    if sent.get(b"sec-fetch-site") == "cross-site":
        raise Forbidden(f"Without keys, pages of other sites are not served. {_CREATE}")


def _sign_of_proxy(version: str, sent: dict[bytes, str]) -> str | None:
    """What shows that a proxy here forwards a request for somebody else; None for nothing.

    With no more than `proxy_pass`, nginx before 1.29.7 adds no header and changes `Host` to its
    own word for this service; that it speaks HTTP/1.0 and closes the connection is all there is.
    """
    for name in sent:
        if _PROXIED.fullmatch(name):
            return name.decode("latin-1")
    closes = sent.get(b"connection", "").strip().lower() == "close"
    return "HTTP/1.0 and Connection: close, as of nginx" if version == "1.0" and closes else None


@lru_cache(64)
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
