"""Threads for work of very different length, shared fairly by the clients that ask for it.

A first-come queue lets whoever sends the most expensive images keep everybody waiting. Here, the
next piece of work is that of the client who has used the threads least so far, and of its requests
each has a turn. The threads take it themselves, so that none idles until the event loop has time.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

from contracts.errors import DeadlineExceeded, Draining, QueueFull
from service.inference.pixel_budget import PixelBudget

T = TypeVar("T")


_PART = "\n"  # in no client's name


def part_of(client: str, name: str) -> str:
    """The name of a part of what a client does, such as one of the people whom an app logs in."""
    return f"{client}{_PART}{name}"


def whole_of(client: str) -> str:
    """The client that a part belongs to."""
    return client.partition(_PART)[0]


class Caller(NamedTuple):
    """For whom a request is: its quota key, and a number that tells its requests apart."""

    client: str
    request: int

    @property
    def whole(self) -> str:
        """The client; where those who use one key have turns of their own, all of them."""
        return whole_of(self.client)


NOBODY = Caller("", 0)
CALLER: ContextVar[Caller] = ContextVar("caller")
"""Set for each request by `service.middleware.authentication`."""


@dataclass(eq=False, slots=True)
class _Task:
    work: Callable[[], Any]
    pixels: int
    caller: Caller
    result: "asyncio.Future[Any]"
    is_waiting: bool = True


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
    """The waiting work of all clients; whoever uses it holds the pool's lock."""

    def __init__(self) -> None:
        self.clients: dict[str, _Client] = {}

    def count(self, client: str) -> int:
        known = self.clients.get(client)
        return 0 if known is None else known.count

    def put(self, task: _Task) -> None:
        client = self.clients.get(task.caller.whole)
        if client is None:
            used = min((other.used for other in self.clients.values()), default=0.0)
            client = self.clients[task.caller.whole] = _Client(used)
        client.count += 1
        client.requests.setdefault(task.caller.request, deque()).append(task)

    def first(self) -> _Task | None:
        """The work that has the next turn."""
        waiting = [client for client in self.clients.values() if client.requests]
        if not waiting:
            return None
        client = min(waiting, key=lambda one: one.used)
        return next(iter(client.requests.values()))[0]

    def waiting(self) -> list[_Task]:
        """All of it."""
        requests = (tasks for one in self.clients.values() for tasks in one.requests.values())
        return [task for tasks in requests for task in tasks]

    def take(self, task: _Task) -> None:
        """Remove waiting work; the client's other requests come before this one's next."""
        client = self.clients[task.caller.whole]
        tasks = client.requests.pop(task.caller.request)
        tasks.remove(task)
        task.is_waiting = False
        if tasks:
            client.requests[task.caller.request] = tasks

    def end(self, task: _Task, seconds: float) -> None:
        """Charge a client for work that has ended, or was given up."""
        client = self.clients[task.caller.whole]
        client.used += seconds
        client.count -= 1
        if not client.count:
            del self.clients[task.caller.whole]


class FairPool:
    """A bounded pool of threads, for the requests of any event loops.

    Args:
        threads: Pieces of work that run at the same time.
        name: Of the threads.
        places: Pieces of work that may wait or run, of all clients together.
        share: Of those, the places of one client. An idle pool can always take that many.
        budget: Bounds the pixels of all work that runs, in this and in other pools.
        full: What a client is told whose work has no place.
        late: What a client is told whose work was not done before its deadline.
    """

    def __init__(
        self,
        threads: int,
        *,
        name: str,
        places: int,
        share: int,
        budget: PixelBudget | None = None,
        full: str = "Too many images wait to be decoded. Retry soon.",
        late: str = (
            "The image was not decoded before the deadline. Send fewer or smaller images at a "
            "time, or a larger X-Timeout-Ms."
        ),
    ) -> None:
        self._full, self._late = full, late
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._idle = threads
        self._places = places
        self._share = share
        self._budget = budget
        self._queue = _FairQueue()
        self._taken: deque[_Task] = deque()  # by threads that are about to wake
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
        self.require_place()
        if deadline_seconds <= 0:
            raise DeadlineExceeded(self._late)
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task = _Task(work, pixels, CALLER.get(NOBODY), result)
        with self._lock:
            self._queue.put(task)
        self._start()
        try:
            async with asyncio.timeout(deadline_seconds):
                return await result
        except TimeoutError:
            raise DeadlineExceeded(self._late) from None
        finally:
            if self._give_up(task):
                self._start()  # what waited behind it may fit into the budget
            # A traceback holds this frame, and they would hold the exception that has it.
            del task, result

    def close(self) -> None:
        """Accept no more work and drop what waits; does not wait for what runs."""
        with self._lock:
            self._closed = True
            waiting = self._queue.waiting()
        self._executor.shutdown(wait=False)
        for task in waiting:
            _call(task, task.result.cancel)

    def require_place(self) -> None:
        """Refuse what has no place now.

        Raises:
            QueueFull: As `run`.
            Draining: As `run`.
        """
        if self._closed:
            raise Draining("The service is shutting down. Send it again.", retry_after=1)
        with self._lock:
            mine = self._queue.count(CALLER.get(NOBODY).whole)
            total = sum(one.count for one in self._queue.clients.values())
        if mine >= self._share or total >= self._places:
            raise QueueFull(self._full, retry_after=1)

    def _start(self) -> None:
        """Wake an idle thread for each piece of work that may run."""
        with self._lock:
            while self._idle and (task := self._take()) is not None:
                self._idle -= 1
                self._taken.append(task)
                self._executor.submit(self._work)

    def _take(self) -> _Task | None:
        """The next piece of work, if the budget allows it; under the lock."""
        if self._closed or (task := self._queue.first()) is None:
            return None
        if self._budget is not None and not self._budget.take(task.pixels, self._start):
            return None
        self._queue.take(task)
        return task

    def _give_up(self, task: _Task) -> bool:
        """Remove work that has not started; whether there was any."""
        with self._lock:
            if task.is_waiting:
                self._queue.take(task)
                self._queue.end(task, 0.0)
                return True
        return False

    def _work(self) -> None:
        """Do a piece of work, and whatever waits after it; in a thread."""
        task: _Task | None = self._taken.popleft()
        while task is not None:
            began = time.monotonic()
            outcome = _outcome_of(task.work)
            if self._budget is not None:
                self._budget.give_back(task.pixels)
            with self._lock:
                self._queue.end(task, time.monotonic() - began)
                following = self._take()
                self._idle += following is None
            _call(task, partial(_settle, task.result, *outcome))
            del outcome  # so that no image stays in memory while the next is worked on
            task = following


def _outcome_of(work: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    try:
        return work(), None
    except BaseException as error:  # noqa: BLE001  the caller's to handle
        return None, error


def _settle(result: "asyncio.Future[Any]", value: object, error: BaseException | None) -> None:
    if result.done():
        return  # the caller has stopped waiting
    if error is None:
        result.set_result(value)
    else:
        result.set_exception(error)


def _call(task: _Task, call: Callable[[], object]) -> None:
    """Call on the event loop of the work's caller."""
    with suppress(RuntimeError):  # the loop is closed
        task.result.get_loop().call_soon_threadsafe(call)
