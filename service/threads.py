"""Threads for blocking calls, such as queries, and for what takes long to compute.

Requests that change something wait for each other: for the database's one writer, for locks, for
the disk. They have threads of their own, so that two hundred of them do not keep those waiting that
only read, nor the background tasks that read keys and renew what must not expire. What is only
computed waits for neither.
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
_COMPUTING_THREADS = 4
_MANY_VALUES = 2000  # of a response; to assemble and write them takes milliseconds

CHANGES: ContextVar[bool] = ContextVar("changes", default=False)
"""Whether the request may change something; set by `service.middleware.authentication`."""

_CHANGING: RunVar[CapacityLimiter] = RunVar("changing_threads")
_COMPUTING: RunVar[CapacityLimiter] = RunVar("computing_threads")


async def run_in_threadpool(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that blocks in a thread, and return its result."""
    limiter = _limiter(_CHANGING, _CHANGING_THREADS) if CHANGES.get() else None
    return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=limiter)


def are_many(values: int) -> bool:
    """Whether a response with so many values takes so long that it would hold up the others."""
    return values > _MANY_VALUES


async def run_by_size(
    values: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Compute something from so many values; in a thread if they are many."""
    if not are_many(values):
        return function(*args, **kwargs)
    limiter = _limiter(_COMPUTING, _COMPUTING_THREADS)
    return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=limiter)


def _limiter(variable: RunVar[CapacityLimiter], threads: int) -> CapacityLimiter:
    """One for each event loop."""
    try:
        return variable.get()
    except LookupError:
        limiter = CapacityLimiter(threads)
        variable.set(limiter)
        return limiter
