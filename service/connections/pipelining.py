"""How much of what a client has sent is parsed at a time, and whose request begins next.

A client may send thousands of requests of a few bytes in one piece, and uvicorn would make an
object of kilobytes of each before anybody else has a turn. So a piece is parsed in slices, and the
rest waits as bytes, unread by the parser, while requests wait for those before them.
"""

import asyncio
import contextvars
import re
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from uvicorn.protocols.http.flow_control import FlowControl

MAX_WAITING = 8  # requests of a connection, above which no more are parsed
SLICES = 16  # that are parsed before others have a turn
_CONNECTIONS = 4  # that begin a request in one turn of the event loop
_SLICE_BYTES = 512  # in which there are at most 28 requests
_CHUNKED_BYTES = 256 * 1024, 16 * 1024  # of a chunked body, the first in which there are
_CHUNKED_LINES = 96  # at most; each chunk has two, and so has each request
_HEAD_BYTES = 4096
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,12})\r\n", re.IGNORECASE)

_Turn = tuple[Callable[[], None], contextvars.Context]


def slice_end(data: bytes, start: int, body_left: int, *, is_chunked: bool) -> int:
    """Where to stop parsing, so that few requests or chunks are parsed.

    A body costs the same whatever its length, so it is not cut if that is known.

    Args:
        data: What has arrived.
        start: Where the slice begins.
        body_left: Bytes that the body lacks in which the slice begins.
        is_chunked: Whether the slice begins in a body whose length is not known.

    Returns:
        The end of the slice, which may be beyond that of the data.
    """
    end = start + max(_SLICE_BYTES, body_left)
    if end >= len(data) or body_left > 0:
        return end
    if is_chunked:
        for size in _CHUNKED_BYTES:
            if _has_few_lines(data, start, start + size):
                return start + size
        return end
    # If this is not a whole head, as usual, then the parser will know the length.
    head_end = data.find(b"\r\n\r\n", start, start + _HEAD_BYTES) + 4
    length = _LENGTH.search(data, start, head_end - 2)
    return end if length is None else max(end, head_end + int(length[1]))


def _has_few_lines(data: bytes, start: int, end: int) -> bool:
    """Searching is ten times as fast as counting, where there are few."""
    for _ in range(_CHUNKED_LINES + 1):
        start = data.find(b"\n", start, end) + 1
        if not start:
            return True
    return False


class HeldFlow(FlowControl):
    """uvicorn's flow control, with a reason of the connection's own not to read.

    A request resumes reading whenever it is asked for its body; while reading is held, that is
    remembered instead.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._is_held = False
        self._is_wanted = True

    def pause_reading(self) -> None:
        self._is_wanted = False
        super().pause_reading()

    def resume_reading(self) -> None:
        self._is_wanted = True
        if not self._is_held:
            super().resume_reading()

    def hold(self) -> None:
        """Do not read until `release`."""
        self._is_held = True
        super().pause_reading()

    def release(self) -> None:
        """Read, unless a request wants it paused."""
        if self._is_held:
            self._is_held = False
            if self._is_wanted:
                super().resume_reading()


@dataclass(slots=True)
class _Waiting:
    """What one event loop has to do, by the clients' network; the first network is next."""

    turns: OrderedDict[str, deque[_Turn]] = field(default_factory=OrderedDict)
    begun: int = 0  # in this turn of the loop

    def reset(self) -> None:
        self.begun = 0


class Turns:
    """Lets few requests begin in each turn of the event loop, and networks take turns.

    In each turn the loop accepts several connections, and what was begun before goes on once. If
    hundreds of connections began a request in every one, a client that has yet to connect would
    wait for all of them several times. And a client that hangs up at once, which waits for nothing
    and so slows down by nothing, has gone before its request begins.
    """

    def __init__(self) -> None:
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _Waiting] = WeakKeyDictionary()

    def begins_now(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether one more may begin in this turn of the loop; otherwise the caller adds it."""
        waiting = self._waiting(loop)
        if waiting.turns or waiting.begun >= _CONNECTIONS:
            return False
        if not waiting.begun:
            loop.call_soon(waiting.reset)
        waiting.begun += 1
        return True

    def add(
        self,
        loop: asyncio.AbstractEventLoop,
        network: str,
        go_on: Callable[[], None],
        context: contextvars.Context,
    ) -> None:
        """Call a function in this context when it is the network's turn, never at once."""
        waiting = self._waiting(loop)
        if not waiting.turns:
            loop.call_soon(self._begin, loop, waiting)
        waiting.turns.setdefault(network, deque()).append((go_on, context))

    def _begin(self, loop: asyncio.AbstractEventLoop, waiting: _Waiting) -> None:
        for _ in range(_CONNECTIONS):
            if not waiting.turns:
                return
            network, turns = waiting.turns.popitem(last=False)
            go_on, context = turns.popleft()
            loop.call_soon(go_on, context=context)
            if turns:
                waiting.turns[network] = turns
        if waiting.turns:
            loop.call_soon(self._begin, loop, waiting)

    def _waiting(self, loop: asyncio.AbstractEventLoop) -> _Waiting:
        return self._by_loop.setdefault(loop, _Waiting())
