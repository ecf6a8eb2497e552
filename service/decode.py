"""Decoding off the event loop: a bounded pool of threads, and a deadline on every wait.

Pillow lets go of the interpreter lock while it decodes and resizes, and numpy while it reads
tensors, so threads are enough.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar

from contracts.errors import DeadlineExceeded, Draining, QueueFull
from contracts.inference import Resize
from models.images import Picture, Target, decode

T = TypeVar("T")

# Waiting images hold their bytes: at 16 MiB each this is the API's largest use of memory.
_WAITING_PER_THREAD = 32


class Decoder:
    """The pool. One an API process; belongs to one event loop."""

    def __init__(self, threads: int, *, max_pixels: int, max_images: int = 1) -> None:
        """Make the pool; its threads start with the first image.

        Args:
            threads: Images decoded at once.
            max_pixels: See `models.images.decode`.
            max_images: Images of the largest request, which an idle pool has room for.
        """
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._max_pixels = max_pixels
        self._room = max(threads * (1 + _WAITING_PER_THREAD), max_images)
        self._closed = False

    async def decode(
        self,
        data: bytes | memoryview,
        *,
        network: Target,
        resize: Resize,
        deadline_seconds: float,
        keep_pixels: int = 0,
    ) -> Picture:
        """Decode one image, see `models.images.decode`.

        Args:
            data: The file, as it was sent.
            network: Whose input it becomes.
            resize: ``crop`` or ``squash``.
            deadline_seconds: How long from now the answer is waited for.
            keep_pixels: See `models.images.decode`.

        Raises:
            InvalidImage: The bytes are no readable image.
            ImageTooLarge: It has too many pixels.
            OpsinError: As `run`.
        """
        work = partial(
            decode,
            data,
            network=network,
            resize=resize,
            max_pixels=self._max_pixels,
            keep_pixels=keep_pixels,
        )
        return await self.run(work, deadline_seconds=deadline_seconds)

    async def run(self, work: Callable[[], T], *, deadline_seconds: float) -> T:
        """The result of `work`, done by a thread of the pool when its turn has come.

        Work whose caller is cancelled or out of time before its turn is never begun; what has
        begun then finishes unseen, since a thread cannot be stopped.

        Args:
            work: What is to be done, on what one client sent. It may raise.
            deadline_seconds: How long from now the result is waited for.

        Raises:
            DeadlineExceeded: It took too long.
            QueueFull: Too many images wait to be decoded.
            Draining: The pool is closed.
        """
        if self._closed:
            raise Draining("The service is shutting down. Send the image again.", retry_after=1)
        if deadline_seconds <= 0:
            raise _too_late()
        if self._room == 0:
            raise QueueFull("Too many images wait to be decoded. Retry soon.", retry_after=1)
        self._room -= 1
        future = self._pool.submit(work)
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()
        # The room is given back by the thread's end, not by ours: a late one still holds its bytes.
        future.add_done_callback(partial(self._hand_over, loop, result))
        try:
            return await asyncio.wait_for(result, deadline_seconds)
        except TimeoutError:
            raise _too_late() from None
        finally:
            future.cancel()

    def _hand_over(
        self, loop: asyncio.AbstractEventLoop, result: "asyncio.Future[T]", done: "Future[T]"
    ) -> None:
        """Wake the loop once for both, the room and the result."""
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._settle, result, done)

    def _settle(self, result: "asyncio.Future[T]", done: "Future[T]") -> None:
        self._room += 1
        if result.done():
            return  # nobody waits any more
        if done.cancelled():
            result.cancel()
        elif (error := done.exception()) is not None:
            result.set_exception(error)
        else:
            result.set_result(done.result())

    def close(self) -> None:
        """Take no more images and forget those that wait; does not wait for running ones."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "The image was not decoded before the deadline. Send fewer or smaller images at a time, "
        "or a larger X-Timeout-Ms."
    )
