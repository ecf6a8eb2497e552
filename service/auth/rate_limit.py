"""How often a key may send requests, counted in Redis over all API processes.

A sliding window of two counters: a limit of N per minute holds in any minute, with an error of a
few per cent, and costs Redis two small numbers per key. While Redis is unavailable nothing is
refused: the limit distributes the service fairly and is no protection. Queues and budgets are, and
they need no Redis; without Redis, nothing is inferred anyway.
"""

import asyncio
import math
import time

import structlog
from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from redis.asyncio import Redis

from contracts.errors import RateLimited
from service.auth.principal import Principal

_WAIT_SECONDS = 0.25  # for Redis; then the request proceeds unlimited
_WARNING_SECONDS = 60.0

log = structlog.get_logger()


class RateLimits:
    """The limits of all keys.

    Args:
        redis: Its connections are used; it is not closed here.
    """

    def __init__(self, redis: Redis) -> None:
        storage = RedisStorage(
            "redis://",
            wrap_exceptions=True,
            implementation="redispy",
            key_prefix="rate",
            connection_pool=redis.connection_pool,  # type: ignore[arg-type] # passed on unchanged
        )
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._warned = -math.inf

    async def take(self, principal: Principal, *, count: int = 1) -> None:
        """Count a request.

        Args:
            principal: Whose it is.
            count: As how many it counts.

        Raises:
            RateLimited: There were too many; `retry_after` says when the next may succeed.
        """
        if principal.rate_per_minute is None:
            return
        item = RateLimitItemPerMinute(principal.rate_per_minute)
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                if await self._limiter.hit(item, principal.id, cost=count):
                    return
                stats = await self._limiter.get_window_stats(item, principal.id)
        except (StorageError, TimeoutError) as error:
            self._warn(error)
            return
        seconds = max(1, math.ceil(stats.reset_time - time.time()))
        raise RateLimited(
            f"This key may send {principal.rate_per_minute} requests a minute. "
            f"Retry in {seconds} s.",
            retry_after=seconds,
        )

    def _warn(self, error: Exception) -> None:
        if time.monotonic() - self._warned > _WARNING_SECONDS:
            self._warned = time.monotonic()
            log.warning("rate_limits_unchecked", error=type(error).__name__)


def policy_of(principal: Principal) -> bytes | None:
    """The header `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers), if there is a limit."""
    if principal.rate_per_minute is None:
        return None
    return b'"key";q=%d;w=60' % principal.rate_per_minute


def state_of(error: RateLimited) -> str:
    """The header `RateLimit` of a refusal: no request is left until the window ends."""
    return f'"key";r=0;t={math.ceil(error.retry_after or 1)}'
