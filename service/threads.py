"""Threads for blocking calls, such as queries.

Requests that change something wait for each other: for the database's one writer, for locks, for
the disk. They have threads of their own, so that two hundred of them do not keep those waiting that
only read, nor the background tasks that read keys and renew what must not expire.
"""

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

P = ParamSpec("P")
T = TypeVar("T")

_CHANGING_THREADS = 24
_MANY_VALUES = 2000  # of a response; to assemble and write them takes milliseconds

CHANGES: ContextVar[bool] = ContextVar("changes", default=False)
"""Whether the request may change something; set by `service.middleware.authentication`."""

_LIMITER: RunVar[CapacityLimiter] = RunVar("changing_threads")


async def run_in_threadpool(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that blocks in a thread, and return its result."""
    limiter = _changing_threads() if CHANGES.get() else None
    return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=limiter)


async def run_by_size(
    values: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Call a function that handles so many values; in a thread if they would hold up the others."""
    if values > _MANY_VALUES:
        return await run_in_threadpool(function, *args, **kwargs)
    return function(*args, **kwargs)


def _changing_threads() -> CapacityLimiter:
    """One for each event loop."""
    try:
        return _LIMITER.get()
    except LookupError:
        limiter = CapacityLimiter(_CHANGING_THREADS)
        _LIMITER.set(limiter)
        return limiter
