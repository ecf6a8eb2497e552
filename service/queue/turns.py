"""Lets clients alternate in the queues of slow operations and networks, whatever each has sent.

The queue in Redis is first come, first served. An explanation takes seconds, so a client with many
of them would keep all others waiting for minutes; a full queue of VGG16 takes five seconds. Here,
the images of a request go into the queue a slice at a time, and the next slice is that of the
client whose turn it is. Belongs to one event loop.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from contracts.inference.inference import Operation
from contracts.queue.redis_keys import QueueName
from service.inference.fair_pool import whole_of

ALTERNATING: frozenset[Operation] = frozenset({"heatmap", "faces", "explain", "clip", "study"})
"""Those that are slow with any network; the others are with a large one."""
FULL_SECONDS = 2.0  # of a worker's time, in which a full queue of a fast network is empty again
_SLICE_SECONDS = 1.0  # of a worker's time: longer than a batch, shorter than others like to wait
_UNKNOWN_SLICE = 4  # images, until the queue's rate has been measured


def slice_size(rate: float | None) -> int:
    """How many images of a request go into the queue at a time."""
    return _UNKNOWN_SLICE if rate is None else max(1, round(rate * _SLICE_SECONDS))


@dataclass(eq=False, slots=True)
class _Slice:
    count: int
    turn: "asyncio.Future[None]"


@dataclass(slots=True)
class _Line:
    """The slices of one queue.

    Attributes:
        places: How many images may be in the queue.
        taken: How many are.
        waiting: The slices that are not, by client and, within it, by its parts; the first is next.
    """

    places: int = 1
    taken: int = 0
    waiting: OrderedDict[str, OrderedDict[str, deque[_Slice]]] = field(default_factory=OrderedDict)


class Turns:
    """The turns of the clients in each queue of this process."""

    def __init__(self) -> None:
        self._lines: dict[QueueName, _Line] = {}

    @asynccontextmanager
    async def turn(
        self, queue: QueueName, client: str, count: int, places: int
    ) -> AsyncIterator[None]:
        """Wait for a client's turn, and hold it until the block ends.

        Args:
            queue: Where the slice goes.
            client: Whose it is; the parts of a client take turns among themselves.
            count: Images in the slice.
            places: How many images may be in the queue at a time; a single slice always may.
        """
        line = self._lines.setdefault(queue, _Line())
        line.places = places
        try:
            await _enter(line, client, count)
            try:
                yield
            finally:
                line.taken -= count
                _grant(line)
        finally:
            if not (line.taken or line.waiting) and self._lines.get(queue) is line:
                del self._lines[queue]


async def _enter(line: _Line, client: str, count: int) -> None:
    mine = _Slice(count, asyncio.get_running_loop().create_future())
    parts = line.waiting.setdefault(whole_of(client), OrderedDict())
    parts.setdefault(client, deque()).append(mine)
    _grant(line)
    try:
        await mine.turn
    except asyncio.CancelledError:
        if not mine.turn.cancelled():
            line.taken -= count  # its turn had just come
        elif mine in parts.get(client, ()):  # otherwise `_grant` has removed it
            _remove(line, client, mine)
        _grant(line)
        raise


def _grant(line: _Line) -> None:
    """Give the free places to the clients who wait, each in turn."""
    while line.waiting:
        whole, parts = next(iter(line.waiting.items()))
        client, slices = next(iter(parts.items()))
        first = slices[0]
        if first.turn.done():  # cancelled, and its task has not run since
            _remove(line, client, first)
            continue
        if line.taken and line.taken + first.count > line.places:
            return
        _remove(line, client, first)
        if slices:
            parts.move_to_end(client)  # after all others
        if parts:
            line.waiting.move_to_end(whole)
        line.taken += first.count
        first.turn.set_result(None)


def _remove(line: _Line, client: str, waiting: _Slice) -> None:
    whole = whole_of(client)
    parts = line.waiting[whole]
    parts[client].remove(waiting)
    if not parts[client]:
        del parts[client]
    if not parts:
        del line.waiting[whole]
