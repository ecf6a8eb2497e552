"""Stops working for a client that has hung up."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

T = TypeVar("T")


async def while_connected(request: Request, work: Coroutine[None, None, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client hangs up.

    Call it once the body has been read: until then the connection speaks of the body alone.

    Raises:
        ClientDisconnect: The client hung up first.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("called outside a task")
    others = task.cancelling()
    watch = asyncio.create_task(_cancel_when_gone(request, task))
    try:
        # In this very task, as under `asyncio.timeout`: one of its own for every request is dear.
        return await work
    except asyncio.CancelledError:
        # Where somebody else has cancelled us as well, it is theirs to say what that means.
        if _has_struck(watch) and task.cancelling() - 1 <= others:
            raise ClientDisconnect from None
        raise
    finally:
        if _has_struck(watch):
            task.uncancel()
        else:
            watch.cancel()


async def _cancel_when_gone(request: Request, task: "asyncio.Task[object]") -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    task.cancel()


def _has_struck(watch: "asyncio.Task[None]") -> bool:
    """Whether it came to its end, which is to cancel."""
    return watch.done() and not watch.cancelled() and watch.exception() is None
