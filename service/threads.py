"""Threads for blocking calls, such as queries, and for what takes long to compute.

Requests that change something wait for each other: for the database's one writer, for locks, for
the disk. They have threads of their own, so that two hundred of them do not keep those waiting that
only read, nor the background tasks that read keys and renew what must not expire. One client has
half of them at most. What is only computed waits for neither.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

from service.inference.fair_pool import CALLER

P = ParamSpec("P")
T = TypeVar("T")

_CHANGING_THREADS = 24
_CHANGING_THREADS_OF_ONE = 12
_COMPUTING_THREADS = 4
_MANY_VALUES = 2000  # of a response; to assemble and write them takes milliseconds

CHANGES: ContextVar[bool] = ContextVar("changes", default=False)
"""Whether the request may change something; set by `service.middleware.authentication`."""

_CHANGING: RunVar[CapacityLimiter] = RunVar("changing_threads")
_SHARES: "RunVar[dict[str, _Share]]" = RunVar("shares_of_changing_threads")
_COMPUTING: RunVar[CapacityLimiter] = RunVar("computing_threads")


@dataclass(slots=True)
class _Share:
    """What one client has of the threads, and how many of its calls use or await them."""

    threads: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(_CHANGING_THREADS_OF_ONE)
    )
    calls: int = 0


async def run_in_threadpool(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that blocks in a thread, and return its result."""
    call = partial(function, *args, **kwargs)
    if not CHANGES.get():
        return await to_thread.run_sync(call)
    async with _share():
        limiter = _of_loop(_CHANGING, partial(CapacityLimiter, _CHANGING_THREADS))
        return await to_thread.run_sync(call, limiter=limiter)


@asynccontextmanager
async def _share() -> AsyncIterator[None]:
    """Wait until the client of this request has fewer threads than it may have."""
    caller = CALLER.get(None)
    client = "" if caller is None else caller.client
    shares = _of_loop(_SHARES, dict[str, _Share])
    share = shares.setdefault(client, _Share())
    share.calls += 1
    try:
        async with share.threads:
            yield
    finally:
        share.calls -= 1
        if not share.calls:
            del shares[client]


def are_many(values: int) -> bool:
    """Whether a response with so many values takes so long that it would hold up the others."""
    return values > _MANY_VALUES


async def run_by_size(
    values: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Compute something from so many values; in a thread if they are many."""
    if not are_many(values):
        return function(*args, **kwargs)
    limiter = _of_loop(_COMPUTING, partial(CapacityLimiter, _COMPUTING_THREADS))
    return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=limiter)


def _of_loop(variable: RunVar[T], make: Callable[[], T]) -> T:
    """The value for the running event loop, made when it is first asked for."""
    try:
        return variable.get()
    except LookupError:
        value = make()
        variable.set(value)
        return value
