"""How long a call of Redis is tried again.

redis-py repeats calls within calls: that of the command, of the connection it needs, of the look
whether this is sound. Each counts its tries by itself, so 10 become 120, and takes an error that
Redis has answered for a lost connection. Here only the outermost call is repeated, for a few
seconds, and not at all once Redis has said that it refuses this client.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from threading import get_ident
from typing import Any

from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

TRY_SECONDS = 4.0
_TRIES: Any = (ExponentialWithJitterBackoff(cap=1, base=0.01), 10, (RedisConnectionError,))

# The thread or the task whose call is repeated: contexts are copied to those that it starts.
_repeating: ContextVar[object] = ContextVar("repeating", default=None)


def is_refusal(error: BaseException) -> bool:
    """Whether Redis has said that it refuses this client: for its password or its rights."""
    kinds = AuthenticationError, AuthorizationError, NoPermissionError
    # On a Unix socket, redis-py makes an error of the connection of it.
    return isinstance(error, kinds) or isinstance(error.__cause__, kinds)


class _Bounded:
    _backoff: Any
    _retries: int

    def failed(self, error: Exception, *, is_repeated: bool) -> None:
        """Called after each failure; does nothing here."""

    def _pause(self, error: Exception, failures: int, until: float) -> float:
        """Seconds before the next try; raises the error if none follows."""
        if not until:
            raise error  # the call around this one counts and repeats it
        pause = float(self._backoff.compute(failures))
        is_over = failures > self._retries or time.monotonic() + pause > until
        is_repeated = not (is_over or is_refusal(error))
        self.failed(error, is_repeated=is_repeated)
        if not is_repeated:
            raise error
        return pause


class BoundedRetry(_Bounded, Retry):
    """For a synchronous client."""

    def call_with_retry(
        self,
        do: Callable[[], Any],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any:
        """As in the base class, within `TRY_SECONDS`, and once within another call."""
        caller, failures = get_ident(), 0
        until = 0.0 if _repeating.get() == caller else time.monotonic() + TRY_SECONDS
        token = _repeating.set(caller)
        try:
            while True:
                try:
                    return do()
                except self._supported_errors as error:
                    if is_retryable and not is_retryable(error):
                        raise
                    failures += 1
                    fail(*(error, failures)[: 1 + with_failure_count])
                    pause = self._pause(error, failures, until)
                time.sleep(pause)
        finally:
            _repeating.reset(token)


class BoundedAsyncRetry(_Bounded, AsyncRetry):
    """For an asynchronous client."""

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[Any]],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any:
        """As in the base class, within `TRY_SECONDS`, and once within another call."""
        caller, failures = asyncio.current_task(), 0
        until = 0.0 if _repeating.get() is caller else time.monotonic() + TRY_SECONDS
        token = _repeating.set(caller)
        try:
            while True:
                try:
                    return await do()
                except self._supported_errors as error:
                    if is_retryable and not is_retryable(error):
                        raise
                    failures += 1
                    await fail(*(error, failures)[: 1 + with_failure_count])
                    pause = self._pause(error, failures, until)
                await asyncio.sleep(pause)
        finally:
            _repeating.reset(token)


def bounded_retry() -> BoundedRetry:
    """That of every synchronous client of this service."""
    return BoundedRetry(*_TRIES)


def bounded_async_retry() -> BoundedAsyncRetry:
    """That of every asynchronous client."""
    return BoundedAsyncRetry(*_TRIES)
