"""Tasks that go on after their callers have stopped waiting.

What must not end halfway runs in one: if a client hangs up or its time is over, only the wait ends.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class DetachedTasks:
    """Holds its tasks until they have ended, as the event loop does not."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Start a task; await it with `asyncio.shield`, or not at all."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def completed(self, work: Coroutine[Any, Any, T]) -> T:
        """The result; if the caller is cancelled, the work goes on."""
        return await asyncio.shield(self.start(work))

    def cancel(self, task: "asyncio.Task[Any]") -> None:
        """Cancel one whose caller has stopped waiting."""
        self._running.discard(task)
        task.cancel()

    async def ended(self) -> None:
        """Wait until all have ended."""
        await asyncio.gather(*self._running, return_exceptions=True)
