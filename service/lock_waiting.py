"""Waits for the locks of models and datasets without keeping a thread of the shared pool.

A request that waited inside the pool could hold the thread that the lock's holder needs, and forty
of them would stop everything that reads the database. Here a lock is tried in a thread for a
moment, and waited for on the event loop.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

from anyio import CapacityLimiter, to_thread

from contracts.errors import QueueFull
from models.locks import LOCK_SECONDS, LockHeldError
from service.threads import run_in_threadpool

P = ParamSpec("P")
T = TypeVar("T")

_POLL_SECONDS = 0.02
_MAX_WAITING = 64  # for one lock; each turn takes some 10 ms
_MAX_WAITING_TOTAL = 256
_BLOCKING_THREADS = 2


class OpenLock(Protocol):
    """Takes a lock; raises `LockHeldError` if it is not free in `timeout` seconds."""

    def __call__(self, *, timeout: float) -> AbstractContextManager[Any]: ...


@dataclass(slots=True)
class _Turn:
    """The requests of this process for one lock, in the order of their arrival."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    count: int = 0


class LockWaiting:
    """The requests of this process that wait for locks; their number is bounded.

    Of the requests for one lock only the first tries it, so they do not compete with each other.
    The holder of the lock has had its turn, and waits for no thread that another waiter has.

    Args:
        seconds: How long a request waits.
    """

    def __init__(self, seconds: float = LOCK_SECONDS) -> None:
        self._seconds = seconds
        self._turns: dict[str, _Turn] = {}
        self._blocking: CapacityLimiter | None = None  # made on the event loop

    async def run(
        self, name: str, change: Callable[..., T], *args: Any, seconds: float = math.inf
    ) -> T:
        """Call ``change(*args, timeout=0)`` in a thread as often as it finds its lock held.

        Args:
            name: What the lock protects: a model or a dataset.
            change: Must take the lock before it changes anything.
            seconds: Time that the request has left.

        Raises:
            QueueFull: Too many requests wait for locks already.
            LockHeldError: The lock was not free in time.
        """
        deadline = time.monotonic() + min(self._seconds, seconds)
        async with self._turn(name, deadline):
            return await _repeat(partial(change, *args, timeout=0.0), deadline)

    @asynccontextmanager
    async def hold(self, name: str, open_lock: OpenLock) -> AsyncIterator[None]:
        """Hold a lock while the block runs; the block may use threads.

        Raises:
            QueueFull: As `run`.
            LockHeldError: As `run`.
        """
        deadline = time.monotonic() + self._seconds
        async with self._turn(name, deadline):
            lock = await _repeat(partial(_enter, open_lock), deadline)
            try:
                yield
            finally:
                lock.__exit__(None, None, None)  # closes a file, which does not block

    async def run_blocking(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what takes locks in the midst of its work, in one of a few threads of its own."""
        if self._blocking is None:
            self._blocking = CapacityLimiter(_BLOCKING_THREADS)
        return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=self._blocking)

    @asynccontextmanager
    async def _turn(self, name: str, deadline: float) -> AsyncIterator[None]:
        turn = self._turns.setdefault(name, _Turn())
        total = sum(other.count for other in self._turns.values())
        if turn.count >= _MAX_WAITING or total >= _MAX_WAITING_TOTAL:
            if not turn.count:
                del self._turns[name]
            raise QueueFull("Too many requests want to change it. Retry soon.", retry_after=2)
        turn.count += 1
        try:
            await _acquire(turn.lock, deadline)
            try:
                yield
            finally:
                turn.lock.release()
        finally:
            turn.count -= 1
            if not turn.count:
                del self._turns[name]


async def _acquire(lock: asyncio.Lock, deadline: float) -> None:
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            await lock.acquire()
    except TimeoutError:
        raise LockHeldError("It is busy with other changes; try again.", retry_after=5) from None


async def _repeat(attempt: Callable[[], T], deadline: float) -> T:
    while True:
        try:
            return await run_in_threadpool(attempt)
        except LockHeldError:
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(_POLL_SECONDS)


def _enter(open_lock: OpenLock) -> AbstractContextManager[Any]:
    lock = open_lock(timeout=0.0)
    lock.__enter__()
    return lock
