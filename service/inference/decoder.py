"""Decoding off the event loop: a bounded pool of threads, and a deadline on every wait.

Pillow lets go of the interpreter lock while it decodes and resizes, and numpy while it reads
tensors, so threads are enough.

The images of one request, decoded side by side; what is wrong with one stays with it.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from contracts.errors import (
    DeadlineExceeded,
    Draining,
    OpsinError,
    PayloadTooLarge,
    QueueFull,
    ValidationFailed,
)
from contracts.inference.inference import Resize
from models.images.decode import Picture, Target, decode
from service.http.deadlines import Deadline
from service.http.uploads import Upload

T = TypeVar("T")

# Waiting images hold their bytes: at 16 MiB each this is the API's largest use of memory.
_WAITING_PER_THREAD = 32


class Decoder:
    """The pool. One an API process; belongs to one event loop."""

    def __init__(self, threads: int, *, max_pixels: int, max_images: int = 1) -> None:
        """Make the pool; its threads start with the first image.

        Args:
            threads: Images decoded at once.
            max_pixels: See `models.images.decode.decode`.
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
        """Decode one image, see `models.images.decode.decode`.

        Args:
            data: The file, as it was sent.
            network: Whose input it becomes.
            resize: ``crop`` or ``squash``.
            deadline_seconds: How long from now the answer is waited for.
            keep_pixels: See `models.images.decode.decode`.

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


# Every other error, a full decoder or a passed deadline, is none of the image's.
_FAULTS_OF_AN_IMAGE = (ValidationFailed, PayloadTooLarge)


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image after decoding.

    Attributes:
        name: The file name that was sent, if one was.
        picture: The picture, or why there is none.
        seconds: What decoding took, the wait for a thread included.
    """

    name: str | None
    picture: Picture | OpsinError
    seconds: float = 0.0


async def decode_uploads(
    decoder: Decoder,
    uploads: Sequence[Upload],
    *,
    network: Target,
    resize: Resize,
    deadline: Deadline,
    keep_pixels: int = 0,
) -> list[Decoded]:
    """All at once, in order; the decoder's own threads are what bounds it.

    Args:
        decoder: The pool.
        uploads: The images, each with its bytes or what is wrong with it.
        network: Whose input they become.
        resize: ``crop`` or ``squash``.
        deadline: Of the request.
        keep_pixels: See `models.images.decode.decode`.

    Raises:
        OpsinError: The decoder had no room or no time for one of them: that is no fault of the
            image, and the client should send all again.
    """

    async def one(upload: Upload) -> Decoded:
        if isinstance(upload.data, OpsinError):
            return Decoded(upload.name, upload.data)
        started = time.monotonic()
        picture: Picture | OpsinError
        try:
            picture = await decoder.decode(
                upload.data,
                network=network,
                resize=resize,
                deadline_seconds=deadline.remaining,
                keep_pixels=keep_pixels,
            )
        except OpsinError as error:
            picture = error
        return Decoded(upload.name, picture, time.monotonic() - started)

    if len(uploads) == 1:
        decoded = [await one(uploads[0])]
    else:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(upload)) for upload in uploads]
        decoded = [task.result() for task in tasks]
    for result in decoded:
        failed = result.picture
        if isinstance(failed, OpsinError) and not isinstance(failed, _FAULTS_OF_AN_IMAGE):
            raise failed
    return decoded
