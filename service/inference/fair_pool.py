"""Threads for work of very different length, shared fairly by the clients that ask for it.

A first-come queue lets whoever sends the most expensive images keep everybody waiting. Here, the
next piece of work is that of the client who has used the threads least so far, and of its requests
each has a turn. Belongs to one event loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

from contracts.errors import DeadlineExceeded, Draining, QueueFull
from service.inference.pixel_budget import PixelBudget

T = TypeVar("T")


class Caller(NamedTuple):
    """For whom a request is: its quota key, and a number that tells its requests apart."""

    client: str
    request: int


_NOBODY = Caller("", 0)
CALLER: ContextVar[Caller] = ContextVar("caller")
"""Set for each request by `service.middleware.authentication`."""


@dataclass(eq=False, slots=True)
class _Task:
    work: Callable[[], Any]
    pixels: int
    caller: Caller
    result: "asyncio.Future[Any]"
    future: "Future[Any] | None" = None
    started_at: float = 0.0


@dataclass(slots=True)
class _Client:
    """A client with waiting or running work.

    Attributes:
        used: Seconds of threads, as if it had been there as long as the others.
        count: Its waiting and running pieces of work.
        requests: Its waiting work, by request; the first has the next turn.
    """

    used: float
    count: int = 0
    requests: dict[int, deque[_Task]] = field(default_factory=dict)


class _FairQueue:
    """The waiting work of all clients."""

    def __init__(self) -> None:
        self.clients: dict[str, _Client] = {}

    def count(self, client: str) -> int:
        known = self.clients.get(client)
        return 0 if known is None else known.count

    def put(self, task: _Task) -> None:
        client = self.clients.get(task.caller.client)
        if client is None:
            used = min((other.used for other in self.clients.values()), default=0.0)
            client = self.clients[task.caller.client] = _Client(used)
        client.count += 1
        client.requests.setdefault(task.caller.request, deque()).append(task)

    def first(self) -> _Task | None:
        """The work that has the next turn."""
        waiting = [client for client in self.clients.values() if client.requests]
        if not waiting:
            return None
        client = min(waiting, key=lambda one: one.used)
        return next(iter(client.requests.values()))[0]

    def take(self, task: _Task) -> None:
        """Remove waiting work; the client's other requests come before this one's next."""
        client = self.clients[task.caller.client]
        tasks = client.requests.pop(task.caller.request)
        tasks.remove(task)
        if tasks:
            client.requests[task.caller.request] = tasks

    def end(self, task: _Task, seconds: float) -> None:
        """Charge a client for work that has ended, or was given up."""
        client = self.clients[task.caller.client]
        client.used += seconds
        client.count -= 1
        if not client.count:
            del self.clients[task.caller.client]


class FairPool:
    """A bounded pool of threads.

    Args:
        threads: Pieces of work that run at the same time.
        name: Of the threads.
        places: Pieces of work that may wait or run, of all clients together.
        share: Of those, the places of one client. An idle pool can always take that many.
        budget: Bounds the pixels of all work that runs, in this and in other pools.
        ahead: Pieces of work handed over before a thread is free, so that none idles until the
            event loop has noticed it.
    """

    def __init__(
        self,
        threads: int,
        *,
        name: str,
        places: int,
        share: int,
        budget: PixelBudget | None = None,
        ahead: int = 0,
    ) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._idle = threads + ahead
        self._places = places
        self._share = share
        self._budget = budget
        self._queue = _FairQueue()
        self._closed = False

    async def run(self, work: Callable[[], T], *, deadline_seconds: float, pixels: int = 0) -> T:
        """Run `work` in a thread of the pool and return its result.

        Work whose caller is cancelled or out of time before its turn never starts. Work that has
        started runs to its end, because a thread cannot be stopped; its result is dropped.

        Args:
            work: Processes the data of one client. It may raise.
            deadline_seconds: How long to wait, from now.
            pixels: What it takes of the budget.

        Raises:
            DeadlineExceeded: It was not done in time.
            QueueFull: Too much work waits already, of all clients or of this one.
            Draining: The pool is closed.
        """
        if self._closed:
            raise Draining("The service is shutting down. Send the image again.", retry_after=1)
        if deadline_seconds <= 0:
            raise _too_late()
        caller = CALLER.get(_NOBODY)
        self._require_place(caller.client)
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task = _Task(work, pixels, caller, result)
        self._queue.put(task)
        self._start_next()
        try:
            return await asyncio.wait_for(result, deadline_seconds)
        except TimeoutError:
            raise _too_late() from None
        finally:
            if task.future is not None:
                task.future.cancel()
            elif not self._closed:
                self._queue.take(task)
                self._queue.end(task, 0.0)
                self._start_next()  # what waited behind it may fit into the budget

    def close(self) -> None:
        """Accept no more work and drop what waits; does not wait for what runs."""
        self._closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)
        for client in self._queue.clients.values():
            for tasks in client.requests.values():
                _cancel(task.result for task in tasks)

    def _require_place(self, client: str) -> None:
        mine = self._queue.count(client)
        total = sum(one.count for one in self._queue.clients.values())
        if mine >= self._share or total >= self._places:
            raise QueueFull("Too many images wait to be decoded. Retry soon.", retry_after=1)

    def _start_next(self) -> None:
        """Start work for as long as a thread is idle and the budget allows it."""
        while self._idle and not self._closed and (task := self._queue.first()) is not None:
            if self._budget is not None and not self._budget.take(task.pixels, self._start_next):
                return
            self._queue.take(task)
            self._idle -= 1
            task.started_at = time.monotonic()
            task.future = self._executor.submit(task.work)
            task.future.add_done_callback(partial(self._on_done, task.result.get_loop(), task))

    def _on_done(self, loop: asyncio.AbstractEventLoop, task: _Task, done: "Future[Any]") -> None:
        """Wake the loop once for the thread, the budget and the result."""
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._settle, task, done)

    def _settle(self, task: _Task, done: "Future[Any]") -> None:
        self._idle += 1
        self._queue.end(task, time.monotonic() - task.started_at)
        if self._budget is not None:
            self._budget.give_back(task.pixels)
        if task.result.done():
            pass  # the caller has stopped waiting
        elif done.cancelled():
            task.result.cancel()
        elif (error := done.exception()) is not None:
            task.result.set_exception(error)
        else:
            task.result.set_result(done.result())
        self._start_next()


def _cancel(results: Iterable["asyncio.Future[Any]"]) -> None:
    for result in results:
        result.cancel()


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "The image was not decoded before the deadline. Send fewer or smaller images at a time, "
        "or a larger X-Timeout-Ms."
    )
