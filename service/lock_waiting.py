"""Waits for the locks of models and datasets without keeping a thread of the shared pool.

A request that waited inside the pool could hold the thread that the lock's holder needs, and forty
of them would stop everything that reads the database. Here a lock is tried in a thread for a
moment, and waited for on the event loop.
"""

import asyncio
import contextvars
import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

from contracts.errors import QueueFull
from models.locks import LOCK_SECONDS, LockHeldError
from service.inference.fair_pool import CALLER, FairPool
from service.threads import run_in_threadpool

P = ParamSpec("P")
T = TypeVar("T")

_POLL_SECONDS = 0.02
# Requests that may wait, for one lock and for all, and a quarter of each for one client.
_MOST_OF_LOCK, _MOST = 256, 1024
_SHARE = 4
_TOO_MANY = "Too many requests want to change it. Retry soon."
_BLOCKING_THREADS = 2
_BLOCKING_SECONDS = 600.0  # the longest deadline of a request


class OpenLock(Protocol):
    """Takes a lock; raises `LockHeldError` if it is not free in `timeout` seconds."""

    def __call__(self, *, timeout: float) -> AbstractContextManager[Any]: ...


class _Turns:
    """The requests of this process for one lock: one has its turn, and clients alternate."""

    def __init__(self) -> None:
        self.counts = Counter[str]()  # of each client's requests
        self._waiting = OrderedDict[str, deque[asyncio.Future[None]]]()
        self._is_taken = False

    async def take(self, client: str) -> None:
        """Wait for a turn."""
        if not self._is_taken:
            self._is_taken = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it has just been given
                self.give_on()
            raise

    def give_on(self) -> None:
        """End a turn, and begin that of the next client."""
        while self._waiting:
            client, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[client] = turns
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False


class LockWaiting:
    """The requests of this process that wait for locks; their number is bounded.

    Of the requests for one lock only the first tries it, so they do not compete with each other.
    The holder of the lock has had its turn, and waits for no thread that another waiter has.
    Clients take turns, and each has a share of the places.

    Args:
        seconds: How long a request waits.
    """

    def __init__(self, seconds: float = LOCK_SECONDS) -> None:
        self._seconds = seconds
        self._turns: dict[str, _Turns] = {}
        self._blocking = FairPool(
            _BLOCKING_THREADS,
            name="blocking",
            places=_MOST,
            share=_MOST // _SHARE,
            full=_TOO_MANY,
            late="It was not changed before the deadline. Retry soon.",
        )

    def close(self) -> None:
        """Begin nothing more of what blocks."""
        self._blocking.close()

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
        """Run what takes locks in the midst of its work, in one of a few threads of its own.

        Raises:
            QueueFull: As `run`.
        """
        call = partial(contextvars.copy_context().run, function, *args, **kwargs)
        return await self._blocking.run(call, deadline_seconds=_BLOCKING_SECONDS)

    @asynccontextmanager
    async def _turn(self, name: str, deadline: float) -> AsyncIterator[None]:
        caller = CALLER.get(None)
        client = "" if caller is None else caller.whole
        turns = self._turns.setdefault(name, _Turns())
        turns.counts[client] += 1
        try:
            self._require_place(turns, client)
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await turns.take(client)
            except TimeoutError:
                detail = "It is busy with other changes; try again."
                raise LockHeldError(detail, retry_after=5) from None
            try:
                yield
            finally:
                turns.give_on()
        finally:
            turns.counts -= Counter({client: 1})
            if not turns.counts:
                del self._turns[name]

    def _require_place(self, turns: _Turns, client: str) -> None:
        """Refuse a request that has been counted, if that was one too many."""
        of_all = [one.counts for one in self._turns.values()]
        if (
            turns.counts[client] > _MOST_OF_LOCK // _SHARE
            or turns.counts.total() > _MOST_OF_LOCK
            or sum(counts[client] for counts in of_all) > _MOST // _SHARE
            or sum(counts.total() for counts in of_all) > _MOST
        ):
            raise QueueFull(_TOO_MANY, retry_after=2)


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
