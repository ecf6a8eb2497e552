"""A `Cancellation` without a queue, for tests of the operations."""

import time
from collections.abc import Callable
from threading import Event

from contracts.queue.messages import Item
from workers.inference.queue import Cancellation


class _Queues:
    def __init__(self, is_abandoned: Callable[[Item], bool]) -> None:
        self.is_abandoned = is_abandoned


def cancellation_of(*, abandoned: bool = False, stopping: bool = False) -> Cancellation:
    """All clients have gone, the worker is stopping, or neither."""
    stop = Event()
    if stopping:
        stop.set()
    return Cancellation(_Queues(lambda _: abandoned), stop, time.time)  # type: ignore[arg-type]
