"""Sessions of the console: a browser that signed in with a key sends a cookie in place of it.

The cookie holds a random token; Redis holds its digest, the key's id and a digest of the key. What
a session may do is looked up in the key at every request, so a session ends with its key in every
process. It also ends when it is not used for a while, and `MAX_SECONDS` after its start.

A browser sends a cookie with requests that another page has caused. So a request that changes
something must also carry a token that only our own pages can read (CSRF), and a request that the
browser says comes from elsewhere is treated as if it had no cookie.
"""

import asyncio
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from starlette.types import Scope

from contracts.errors import Forbidden, Unauthorized, Unavailable
from contracts.public_paths import PREFIX
from contracts.queue import redis_keys
from service.auth.key_cache import KeyCache
from service.auth.principal import Principal
from service.auth.scopes import matched_route
from service.queue.faults import redis_required

MAX_SECONDS = 12 * 3600
MAX_SESSIONS = 100
"""Sessions of one key; a new one beyond that ends the oldest."""
CSRF_HEADER = b"x-csrf-token"
_WAIT_SECONDS = 2.0  # for Redis
_STREAM = "/v1/jobs/{job_id}/events"
_RENEW_SECONDS = 15  # a session used again this soon is not written again
_NAME = "opsin_session"
# The first one counts; over HTTPS, only the one that was set.
COOKIE_NAMES = [f"__Host-{_NAME}", f"__Secure-{_NAME}", _NAME]
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_PAGES = frozenset({b"same-origin", b"none"})
_ENDED = "The session has ended. Sign in again."
_SILENT = "Sessions cannot be read, as Redis does not answer. Retry soon."
_UNPROTECTED = (
    "With a session cookie, a request that changes something needs the header X-CSRF-Token with "
    "the `csrf_token` of `GET /v1/session`. Programs send a key instead."
)


@dataclass(frozen=True, slots=True)
class Session:
    """A session that was found valid, for the routes that show or end it."""

    token: str
    principal: Principal

    @property
    def csrf_token(self) -> str:
        """Derived from the session's token, so that nothing more is stored."""
        return hmac.new(self.token.encode(), b"csrf", hashlib.sha256).hexdigest()


class Sessions:
    """All sessions, in Redis.

    Args:
        redis: Its connections are used; it is not closed here.
        key_cache: The keys that sessions belong to.
        idle_seconds: A session that is not used for this long ends.
    """

    def __init__(self, redis: Redis, key_cache: KeyCache, idle_seconds: int) -> None:
        self._redis = redis
        self._key_cache = key_cache
        self.idle_seconds = idle_seconds

    async def create(self, principal: Principal) -> Session:
        """Start a session of a key.

        Raises:
            Unauthorized: The key was revoked meanwhile.
            Unavailable: Redis does not answer.
        """
        proof = self._key_cache.proof_of(principal.id)
        if proof is None:
            raise Unauthorized(_ENDED)
        session = Session(secrets.token_urlsafe(32), principal)
        value = {"key": principal.id, "proof": proof, "created": time.time()}
        listed = redis_keys.sessions_of(principal.id)
        with redis_required(_SILENT):
            await self._store(session, json.dumps(value), listed)
        return session

    async def _store(self, session: Session, value: str, listed: str) -> None:
        stored = _stored(session.token)
        async with asyncio.timeout(_WAIT_SECONDS):
            pipe = self._redis.pipeline()
            pipe.set(redis_keys.session(stored), value, ex=self.idle_seconds)
            pipe.zadd(listed, {stored: time.time()})
            pipe.expire(listed, MAX_SECONDS)
            # All but the newest ones; read and removed in one transaction.
            pipe.zrange(listed, 0, -MAX_SESSIONS - 1)
            pipe.zremrangebyrank(listed, 0, -MAX_SESSIONS - 1)
            oldest: list[Any] = (await pipe.execute())[-2]
            if oldest:
                await self._redis.delete(*(redis_keys.session(_text(old)) for old in oldest))

    async def find(self, scope: Scope) -> Session | None:
        """The session of a request; None if it has no cookie of ours.

        Raises:
            Unauthorized: The session, or its key, has ended.
            Forbidden: The request changes something and lacks the token of our pages.
            Unavailable: Redis does not answer.
        """
        is_secure = scope.get("scheme") == "https"
        names = [_cookie_name(True, PREFIX.get())] if is_secure else COOKIE_NAMES
        token = _token_of(scope["headers"], names)
        if token is None:
            return None
        # A stream that reconnects by itself is no sign that somebody is there.
        renews = matched_route(scope).template != _STREAM
        principal = await self._principal(token, renews=renews)
        if principal is None:
            raise Unauthorized(_ENDED)
        session = Session(token, principal)
        if scope["method"] not in _SAFE:
            sent = [value for name, value in scope["headers"] if name == CSRF_HEADER]
            expected = session.csrf_token.encode()
            if len(sent) != 1 or not hmac.compare_digest(sent[0], expected):
                raise Forbidden(_UNPROTECTED)
        return session

    async def is_valid(self, session: Session) -> bool:
        """Whether a session has not ended; False too if that cannot be known."""
        try:
            return await self._principal(session.token, renews=False) is not None
        except Unavailable:
            return False

    async def _principal(self, token: str, *, renews: bool) -> Principal | None:
        """Whom a token belongs to, if it is valid; its idle time begins anew."""
        with redis_required(_SILENT):
            async with asyncio.timeout(_WAIT_SECONDS):
                key_id = await self._key_of(redis_keys.session(_stored(token)), renews)
        return None if key_id is None else self._key_cache.current(key_id)

    async def _key_of(self, name: str, renews: bool) -> str | None:
        pipe = self._redis.pipeline(transaction=False)
        pipe.get(name)
        pipe.ttl(name)
        value, seconds_left = await pipe.execute()
        if value is None:
            return None
        stored = json.loads(value)
        key_id: str = stored["key"]
        age = time.time() - stored["created"]
        if self._key_cache.proof_of(key_id) != stored["proof"] or age >= MAX_SECONDS:
            await self._redis.delete(name)
            return None
        if renews and seconds_left < self.idle_seconds - _RENEW_SECONDS:
            await self._redis.expire(name, int(min(self.idle_seconds, MAX_SECONDS - age)) + 1)
        return key_id

    async def end(self, session: Session) -> None:
        """Sign out.

        Raises:
            Unavailable: Redis does not answer.
        """
        stored = _stored(session.token)
        with redis_required(_SILENT):
            async with asyncio.timeout(_WAIT_SECONDS):
                await self._redis.delete(redis_keys.session(stored))
                await self._redis.zrem(redis_keys.sessions_of(session.principal.id), stored)


def session_cookie(scope: Scope, token: str | None) -> str:
    """The `Set-Cookie` header that starts a session, or ends it without a token."""
    prefix, is_secure = PREFIX.get(), scope.get("scheme") == "https"
    parts = [f"{_cookie_name(is_secure, prefix)}={token or ''}", f"Path={prefix or '/'}"]
    parts += ["HttpOnly", "SameSite=Strict"]
    parts += ["Secure"] if is_secure else []
    parts += ["Max-Age=0"] if token is None else []
    return "; ".join(parts)


def _cookie_name(is_secure: bool, prefix: str) -> str:
    """Browsers keep other hosts, and plain HTTP, from setting a cookie with these prefixes."""
    if not is_secure:
        return _NAME
    return f"__Secure-{_NAME}" if prefix else f"__Host-{_NAME}"


def _token_of(headers: Iterable[tuple[bytes, bytes]], names: Sequence[str]) -> str | None:
    """The token of a request's cookie, unless the browser says that another page sent it.

    A neighboring host can set a cookie without a prefix, and would sign a person in with its own
    key. So the first of `names` that was sent counts, and if it was sent twice, nothing does.
    """
    tokens: dict[str, set[str]] = {name: set() for name in names}
    for name, value in headers:
        if name == b"sec-fetch-site" and value not in _OWN_PAGES:
            return None
        if name == b"cookie":
            for item in value.decode("latin-1").split(";"):
                key, _, content = item.strip().partition("=")
                if key in tokens and _TOKEN.fullmatch(content):
                    tokens[key].add(content)
    found = next(filter(None, tokens.values()), set[str]())
    return found.pop() if len(found) == 1 else None


def _stored(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
