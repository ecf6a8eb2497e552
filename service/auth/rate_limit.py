"""How often a key may ask, counted in Redis over all API processes.

A sliding window of two counters: a limit of N a minute holds in any minute, but for an error of a
few per cent, and costs Redis two small numbers a key. While Redis is away nobody is refused: the
limit shares the service out fairly, it is no wall. What protects the service, its queues and
budgets, needs no Redis, and without one nothing is inferred anyhow.
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
from service.auth.principal import Caller

_WAIT_SECONDS = 0.25  # for Redis; then the request goes on unlimited
_COMPLAINT_SECONDS = 60.0

log = structlog.get_logger()


class RateLimits:
    """The limits of all keys.

    Args:
        redis: Whose connections are used; it is not closed here.
    """

    def __init__(self, redis: Redis) -> None:
        storage = RedisStorage(
            "redis://",
            wrap_exceptions=True,
            implementation="redispy",
            key_prefix="rate",
            connection_pool=redis.connection_pool,  # type: ignore[arg-type] # passed on as it is
        )
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._complained = -math.inf

    async def take(self, caller: Caller) -> None:
        """Count one request of a caller.

        Raises:
            RateLimited: It asked too often; says when to come again.
        """
        if caller.rate_per_minute is None:
            return
        item = RateLimitItemPerMinute(caller.rate_per_minute)
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                if await self._limiter.hit(item, caller.id):
                    return
                stats = await self._limiter.get_window_stats(item, caller.id)
        except (StorageError, TimeoutError) as error:
            self._complain(error)
            return
        seconds = max(1, math.ceil(stats.reset_time - time.time()))
        raise RateLimited(
            f"This key may send {caller.rate_per_minute} requests a minute. "
            f"Come again in {seconds} s.",
            retry_after=seconds,
        )

    def _complain(self, error: Exception) -> None:
        if time.monotonic() - self._complained > _COMPLAINT_SECONDS:
            self._complained = time.monotonic()
            log.warning("rate_limits_unchecked", error=type(error).__name__)


def policy_of(caller: Caller) -> bytes | None:
    """The header `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers), if there is a limit."""
    if caller.rate_per_minute is None:
        return None
    return b'"key";q=%d;w=60' % caller.rate_per_minute


def state_of(error: RateLimited) -> str:
    """The header `RateLimit` of a refusal: nothing is left until then."""
    return f'"key";r=0;t={math.ceil(error.retry_after or 1)}'
