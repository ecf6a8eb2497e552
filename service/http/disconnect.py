"""Cancels the work for a client that has disconnected."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

T = TypeVar("T")


async def while_connected(request: Request, work: Coroutine[None, None, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client hangs up.

    Call it after the body has been read: until then the connection only delivers the body.

    Raises:
        ClientDisconnect: The client hung up first.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("called outside a task")
    others = task.cancelling()
    watcher = asyncio.create_task(_cancel_on_disconnect(request, task))
    try:
        # In this task, as `asyncio.timeout` does: another task for every request is expensive.
        return await work
    except asyncio.CancelledError:
        # If someone else has cancelled this task as well, the cancellation is theirs to handle.
        if _has_cancelled(watcher) and task.cancelling() - 1 <= others:
            raise ClientDisconnect from None
        raise
    finally:
        if _has_cancelled(watcher):
            task.uncancel()
        else:
            watcher.cancel()


async def _cancel_on_disconnect(request: Request, task: "asyncio.Task[object]") -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    task.cancel()


def _has_cancelled(watcher: "asyncio.Task[None]") -> bool:
    """Whether the watcher ran to its end, which is the cancellation."""
    return watcher.done() and not watcher.cancelled() and watcher.exception() is None
