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
    task = asyncio.ensure_future(work)
    hung_up = asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait({task, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        hung_up.cancel()
        # Wait until it has let go of what it holds: its places in the queue, above all.
        await asyncio.gather(task, hung_up, return_exceptions=True)


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
