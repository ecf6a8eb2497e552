"""Lets in who shows a key that may do what is asked, before a byte of the body is read.

On loopback, where no key was ever made, the service is open to this machine. It then answers
neither a page of another site that a browser here shows, nor a name that somebody made to point
here (DNS rebinding).
"""

import ipaddress
import re
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import BadRequest, Forbidden, OpsinError, RateLimited, Unauthorized
from contracts.keys import KEY_PATTERN
from contracts.keys import Scope as KeyScope
from service.access import Doors
from service.caller import Caller
from service.guesses import Guesses
from service.keyring import Keyring
from service.problems import problem
from service.rate_limits import RateLimits, policy_of, state_of

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


class KeyCheck:
    """Answers 401, 403 or 429 in place of the application where that is due.

    Sets ``request.state.caller``, a `service.caller.Caller`, for all but public addresses. What it
    checks with is in the application's state: `doors` from its making, `services` from its start.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._guesses = Guesses()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # a kind of connection that nobody reasoned about
        doors: Doors = scope["app"].state.doors
        access = doors.access(scope["method"], scope["path"])
        if not access:
            await self.app(scope, receive, send)
            return
        services = scope["app"].state.services
        try:
            caller = self._caller(scope, services.keyring)
            await _permit(caller, access, services.rate_limits)
        except OpsinError as error:
            await problem(Request(scope), error, headers=_headers(error))(scope, receive, send)
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
        if KEY_PATTERN.fullmatch(credential) is None:
            self._guesses.require_patience(host)
        try:
            return keyring.identify(credential)
        except Unauthorized:
            self._guesses.note(host)
            raise


async def _permit(caller: Caller, scopes: tuple[KeyScope, ...], limits: RateLimits) -> None:
    # In this order: what a key may not do at all does not use up its requests.
    caller.require(*scopes)
    if caller.rate_per_minute is not None:
        await limits.take(caller)


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
    """Refuse what a browser sends for a page that is not ours.

    Raises:
        Forbidden: It comes from another site's page, or for another name than this machine's.
    """
    for name, value in headers:
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
