"""Lets in who shows a key that may do what is asked, before a byte of the body is read.

On loopback, where no key was ever made, the service is open to this machine. It then answers
neither a page of another site that a browser here shows, nor a name that somebody made to point
here (DNS rebinding), nor what a proxy on this machine passes on for others.
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
from service.auth.failed_auth import Guesses
from service.auth.key_cache import Keyring
from service.auth.principal import Caller
from service.auth.rate_limit import RateLimits, policy_of, state_of
from service.auth.scopes import ANY, PUBLIC, Doors
from service.http.errors import nothing_here, problem

_MISSING = "Send the key as `Authorization: Bearer <key>` or `X-API-Key: <key>`."
_TWICE = "Send one key, once: as `Authorization: Bearer <key>` or as `X-API-Key: <key>`."
_IN_ADDRESS = (
    "A key does not belong in an address, which ends in logs and histories: revoke it, and send "
    "the new one as `Authorization: Bearer <key>`."
)
_KEY_IN_ADDRESS = re.compile(
    rb"(?i)(?:^|&)(?:x[-_])?(?:api[-_]?key|access[-_]?token|authorization)=|opsin_[0-9a-f]{12}_"
)
_MOST_CREDENTIAL = 512  # bytes
# C0, DEL, C1 and the line ends of Unicode: no address of ours has one, and each is read in its own
# way by routers, logs and proxies. A `$` also matches before a last line feed.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PROXIED = re.compile(rb"forwarded|x-forwarded-.+|x-real-ip")


class KeyCheck:
    """Answers 401, 403 or 429 in place of the application where that is due.

    Sets ``request.state.caller``, a `service.auth.principal.Caller`, for all but public addresses.
    What it checks with is in the application's state: `doors` from its making, `services` from its
    start.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._guesses = Guesses()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # a kind of connection that nobody reasoned about
        try:
            _require_plain(scope["path"])
        except OpsinError as error:
            await problem(Request(scope), error)(scope, receive, send)
            return
        doors: Doors = scope["app"].state.doors
        access = doors.access(scope["method"], scope["path"])
        if access == PUBLIC:
            await self.app(scope, receive, send)
            return
        services = scope["app"].state.services
        try:
            caller = self._caller(scope, services.keyring)
            await _permit(caller, ANY if access is None else access, services.rate_limits)
        except OpsinError as error:
            await problem(Request(scope), error, headers=_headers(error))(scope, receive, send)
            return
        if access is None:  # refused here: whatever the router would find, nobody reasoned about
            await nothing_here(Request(scope))(scope, receive, send)
            return
        scope["state"]["caller"] = caller
        policy = policy_of(caller)
        await self.app(scope, receive, _adding(send, policy) if policy else send)

    def _caller(self, scope: Scope, keyring: Keyring) -> Caller:
        """Who sends the request.

        Raises:
            OpsinError: That cannot be told, or is nobody we know.
        """
        if scope["query_string"] and _KEY_IN_ADDRESS.search(scope["query_string"]):
            raise BadRequest(_IN_ADDRESS)
        if (anybody := keyring.anybody) is not None:
            _require_this_machine(scope["headers"])
            return anybody
        credential = _credential(scope["headers"])
        host = scope["client"][0] if scope.get("client") else ""
        # The key first: who shows a right one is not shut out by what others send from there.
        try:
            return keyring.identify(credential)
        except Unauthorized:
            self._guesses.note(host, credential)
            raise


async def _permit(caller: Caller, scopes: tuple[KeyScope, ...], limits: RateLimits) -> None:
    # In this order: what a key may not do at all does not use up its requests.
    caller.require(*scopes)
    if caller.rate_per_minute is not None:
        await limits.take(caller)


def _require_plain(path: str) -> None:
    """Refuse an address that nobody has written in good faith.

    Raises:
        NotFound: It holds a control character.
        BadRequest: It holds a key.
    """
    if _CONTROL.search(path):
        raise NotFound("No address has control characters in it. Look at how it is put together.")
    if KEY_IN_TEXT.search(path):
        raise BadRequest(_IN_ADDRESS)


def _credential(headers: list[tuple[bytes, bytes]]) -> str:
    """What was shown, in either of the two ways.

    Raises:
        Unauthorized: Nothing was, or twice, or in a way that is not ours.
    """
    shown = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, found = value.partition(b" ")
            found = found.strip() if scheme.lower() == b"bearer" else b""
        elif name == b"x-api-key":
            found = value.strip()
        else:
            continue
        if shown is not None:
            raise Unauthorized(_TWICE)
        if not found or len(found) > _MOST_CREDENTIAL:
            raise Unauthorized(_MISSING)
        shown = found.decode("latin-1")
    if shown is None:
        raise Unauthorized(_MISSING)
    return shown


def _require_this_machine(headers: list[tuple[bytes, bytes]]) -> None:
    """Refuse what comes from this machine for somebody else.

    Raises:
        Forbidden: It comes from another site's page, for another name than this machine's, or
            through a proxy.
    """
    for name, value in headers:
        if _PROXIED.fullmatch(name):
            raise Forbidden(
                "Without keys, nobody is answered through a proxy, since it stands for everybody "
                "behind it. Make a key with `opsin keys create`."
            )
        if name == b"host":
            here = _is_loopback("//" + value.decode("latin-1"))
        elif name == b"origin":
            here = _is_loopback(value.decode("latin-1"))
        elif name == b"sec-fetch-site":
            here = value != b"cross-site"
        else:
            continue
        if not here:
            raise Forbidden(
                "Without keys, only programs and pages of this machine are answered, at "
                "localhost. Make a key with `opsin keys create` to open the service to others."
            )


def _is_loopback(address: str) -> bool:
    try:
        host = urlsplit(address).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _headers(error: OpsinError) -> dict[str, str]:
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": 'Bearer realm="opsin"'}
    return {"RateLimit": state_of(error)} if isinstance(error, RateLimited) else {}


def _adding(send: Send, policy: bytes) -> Send:
    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers: list[Any] = list(message.get("headers", ()))
            message["headers"] = [*headers, (b"ratelimit-policy", policy)]
        await send(message)

    return add
