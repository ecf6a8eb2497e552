"""Bodies that are read into memory."""

import asyncio
import tracemalloc

from starlette.requests import Request
from starlette.types import Message

from contracts.errors import PayloadTooLarge
from service.http.body import read_body

_PIECE = bytes(64 * 1024)


def test_a_body_is_not_copied_when_it_is_complete() -> None:
    """Hundreds of bodies can end at the same moment, on the event loop."""
    pieces = 256

    async def receive() -> Message:
        nonlocal pieces
        pieces -= 1
        return {"type": "http.request", "body": bytearray(_PIECE), "more_body": pieces > 0}

    async def read() -> tuple[int, int]:
        request = Request({"type": "http", "method": "POST", "headers": []}, receive)
        tracemalloc.start()
        try:
            body = await read_body(request, 2**30, PayloadTooLarge("x"))
            return len(body), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    length, peak = asyncio.run(read())
    assert length == 256 * len(_PIECE)
    assert peak < 1.5 * length
