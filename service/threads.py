"""Threads for blocking calls, such as queries, and for what takes long to compute.

Requests that change something wait for each other: for the database's one writer, for locks, for
the disk. They have threads of their own, so that two hundred of them do not keep those waiting that
only read. The service itself, which reads keys and renews what must not expire, waits for neither.
One client has a part of either threads at most; the rest of its calls wait until the others' have
begun. What is only computed has threads of its own too.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

from service.detached import DetachedTasks
from service.inference.fair_pool import CALLER, NOBODY

P = ParamSpec("P")
T = TypeVar("T")

_COMPUTING_THREADS = 4
_MANY_VALUES = 2000  # of a response; to assemble and write them takes milliseconds

CHANGES: ContextVar[bool] = ContextVar("changes", default=False)
"""Whether the request may change something; set by `service.middleware.authentication`."""

_RUNNING = DetachedTasks()
_COMPUTING: RunVar[CapacityLimiter] = RunVar("computing_threads")


@dataclass(slots=True)
class _Share:
    """What one client has of the threads, and how many of its calls use or await them."""

    threads: asyncio.Semaphore
    calls: int = 0


class FairThreads:
    """Threads for one sort of calls.

    Args:
        name: Of the sort.
        threads: Calls that run at the same time in an event loop.
        share: Of those, the calls of one client.

    Attributes:
        share: As given.
    """

    def __init__(self, name: str, threads: int, share: int) -> None:
        self._threads = threads
        self.share = share
        self._limiter: RunVar[CapacityLimiter] = RunVar(f"{name}_threads")
        self._shares: RunVar[dict[str, _Share]] = RunVar(f"{name}_shares")

    async def run(self, call: Callable[[], T], client: str) -> T:
        """The result of a call, which begins when the client has fewer than its share."""

        async def with_share(begin: Callable[[], T]) -> T:
            shares = self.shares()
            share = shares.setdefault(client, _Share(asyncio.Semaphore(self.share)))
            share.calls += 1
            try:
                async with share.threads:
                    limiter = _of_loop(self._limiter, partial(CapacityLimiter, self._threads))
                    return await to_thread.run_sync(begin, limiter=limiter)
            finally:
                share.calls -= 1
                if not share.calls:
                    del shares[client]

        return await _to_the_end(call, with_share)

    def shares(self) -> dict[str, _Share]:
        """Those of the clients that use or await threads."""
        return _of_loop(self._shares, dict[str, _Share])


_CHANGING = FairThreads("changing", threads=24, share=12)
_READING = FairThreads("reading", threads=32, share=8)


async def run_in_threadpool(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that blocks in a thread, and return its result."""
    call = partial(function, *args, **kwargs)
    client = CALLER.get(NOBODY).whole
    if CHANGES.get():
        return await _CHANGING.run(call, client)
    return await (_READING.run(call, client) if client else _to_the_end(call, to_thread.run_sync))


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
    call = partial(function, *args, **kwargs)
    return await _to_the_end(call, partial(to_thread.run_sync, limiter=limiter))


async def _to_the_end(call: Callable[[], T], run: Callable[[Callable[[], T]], Awaitable[T]]) -> T:
    """Run a call so that it counts until it has ended, even if its caller is cancelled before.

    A cancelled `run_sync` says that its thread is free although it works on, so a client that
    hangs up again and again would have any number of them. One that has not begun never will.
    """
    first = Lock()  # to whoever comes first: the thread that begins, or the end of the wait

    def begin() -> T:
        if not first.acquire(blocking=False):
            raise asyncio.CancelledError
        return call()

    async def running() -> T:
        return await run(begin)

    task = _RUNNING.start(running())
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if first.acquire(blocking=False):
            _RUNNING.cancel(task)
        raise


def _of_loop(variable: RunVar[T], make: Callable[[], T]) -> T:
    """The value for the running event loop, made when it is first asked for."""
    try:
        return variable.get()
    except LookupError:
        value = make()
        variable.set(value)
        return value
