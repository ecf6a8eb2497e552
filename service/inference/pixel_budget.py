"""Bounds the pixels of all large images that a process has in memory at the same time.

A large image takes up to sixteen bytes a pixel while it is decoded or drawn on, however small its
file is. So neither the number of threads nor that of bytes bounds the memory, but this does.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from contracts.errors import DeadlineExceeded

_WAIT_SECONDS = 60.0


class PixelBudget:
    """Shared by the threads of a process.

    An image with more pixels than the whole budget runs alone, so that none is impossible.

    Args:
        pixels: The budget.
    """

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._taken = 0
        self._freed = threading.Condition()
        self._waiting: list[Callable[[], None]] = []

    def take(self, pixels: int, when_freed: Callable[[], None]) -> bool:
        """Take pixels if there are enough; otherwise, `when_freed` is called once some are freed.

        It is called in the thread that frees them.
        """
        with self._freed:
            if self._fits(pixels):
                self._taken += pixels
                return True
            if when_freed not in self._waiting:
                self._waiting.append(when_freed)
            return False

    def give_back(self, pixels: int) -> None:
        """Return what was taken."""
        with self._freed:
            self._taken -= pixels
            waiting, self._waiting = self._waiting, []
            self._freed.notify_all()
        for call in waiting:
            call()

    @contextmanager
    def held(self, pixels: int, *, seconds: float) -> Iterator[None]:
        """Hold pixels while the block runs; for a thread, which waits for them.

        Raises:
            DeadlineExceeded: There were not enough within `seconds`.
        """
        until = time.monotonic() + seconds
        with self._freed:
            if not self._freed.wait_for(lambda: self._fits(pixels), until - time.monotonic()):
                raise DeadlineExceeded(
                    "Too many large images are being decoded. Retry soon, or send smaller ones."
                )
            self._taken += pixels
        try:
            yield
        finally:
            self.give_back(pixels)

    def gate(self, pixels: int) -> AbstractContextManager[None]:
        """For `models.images.decode`: a thread waits for its turn."""
        return self.held(pixels, seconds=_WAIT_SECONDS)

    def _fits(self, pixels: int) -> bool:
        return not self._taken or self._taken + pixels <= self._pixels
