"""Decoding off the event loop: a bounded pool of threads, and a deadline on every wait.

Threads are enough: Pillow releases the interpreter lock while it decodes and resizes, and NumPy
while it reads tensors.
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
from models.images.decode import DecodedImage, decode
from models.images.resize import ImageInput
from service.http.deadlines import Deadline
from service.http.uploads import Upload

T = TypeVar("T")

# Waiting images hold their bytes: at 16 MiB each this is the API's largest use of memory.
_WAITING_PER_THREAD = 32


class Decoder:
    """A bounded thread pool. One for each API process; belongs to one event loop."""

    def __init__(self, threads: int, *, max_pixels: int, max_images: int = 1) -> None:
        """Create the pool; its threads start with the first image.

        Args:
            threads: Images decoded at the same time.
            max_pixels: See `models.images.decode.decode`.
            max_images: Images of the largest request, which an idle pool can always take.
        """
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._max_pixels = max_pixels
        self._free = max(threads * (1 + _WAITING_PER_THREAD), max_images)
        self._closed = False

    async def decode(
        self,
        data: bytes | memoryview,
        *,
        network: ImageInput,
        resize: Resize | None,
        deadline_seconds: float,
        keep_pixels: int = 0,
    ) -> DecodedImage:
        """Decode one image, see `models.images.decode.decode`.

        Args:
            data: The file, as it was sent.
            network: The network whose input the image becomes.
            resize: ``crop`` or ``squash``; None for the network's own way.
            deadline_seconds: How long to wait, from now.
            keep_pixels: See `models.images.decode.decode`.

        Raises:
            InvalidImage: The data is not a readable image.
            ImageTooLarge: It has too many pixels.
            OpsinError: As for `run`.
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
        """Run `work` in a thread of the pool and return its result.

        Work whose caller is cancelled or out of time before its turn never starts. Work that has
        started runs to its end, because a thread cannot be stopped; its result is dropped.

        Args:
            work: Processes the data of one client. It may raise.
            deadline_seconds: How long to wait, from now.

        Raises:
            DeadlineExceeded: It was not done in time.
            QueueFull: Too many images wait to be decoded.
            Draining: The pool is closed.
        """
        if self._closed:
            raise Draining("The service is shutting down. Send the image again.", retry_after=1)
        if deadline_seconds <= 0:
            raise _too_late()
        if self._free == 0:
            raise QueueFull("Too many images wait to be decoded. Retry soon.", retry_after=1)
        self._free -= 1
        future = self._pool.submit(work)
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()
        # The slot is freed when the thread ends, not when we stop waiting: a late one still holds
        # its bytes.
        future.add_done_callback(partial(self._on_done, loop, result))
        try:
            return await asyncio.wait_for(result, deadline_seconds)
        except TimeoutError:
            raise _too_late() from None
        finally:
            future.cancel()

    def _on_done(
        self, loop: asyncio.AbstractEventLoop, result: "asyncio.Future[T]", done: "Future[T]"
    ) -> None:
        """Wake the loop once for both the slot and the result."""
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._settle, result, done)

    def _settle(self, result: "asyncio.Future[T]", done: "Future[T]") -> None:
        self._free += 1
        if result.done():
            return  # the caller has stopped waiting
        if done.cancelled():
            result.cancel()
        elif (error := done.exception()) is not None:
            result.set_exception(error)
        else:
            result.set_result(done.result())

    def close(self) -> None:
        """Accept no more images and drop those that wait; does not wait for running ones."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "The image was not decoded before the deadline. Send fewer or smaller images at a time, "
        "or a larger X-Timeout-Ms."
    )


# All other errors, such as a full decoder or a passed deadline, concern the whole request.
_IMAGE_ERRORS = (ValidationFailed, PayloadTooLarge)


@dataclass(frozen=True, slots=True)
class DecodedUpload:
    """An uploaded image after decoding.

    Attributes:
        name: The file name that was sent, if one was.
        image: The decoded image, or why there is none.
        seconds: How long decoding took, including the wait for a thread.
    """

    name: str | None
    image: DecodedImage | OpsinError
    seconds: float = 0.0


async def decode_uploads(
    decoder: Decoder,
    uploads: Sequence[Upload],
    *,
    network: ImageInput,
    resize: Resize | None,
    deadline: Deadline,
    keep_pixels: int = 0,
) -> list[DecodedUpload]:
    """Decode the images of one request concurrently; the errors of single images stay with them.

    Args:
        decoder: Its threads bound the concurrency.
        uploads: The images, each with its bytes or an error.
        network: The network whose input they become.
        resize: ``crop`` or ``squash``; None for the network's own way.
        deadline: The request's.
        keep_pixels: See `models.images.decode.decode`.

    Raises:
        OpsinError: The decoder had no room or no time for one of them. That is not the fault of the
            image, and the client should send all again.
    """

    async def decode_one(upload: Upload) -> DecodedUpload:
        if isinstance(upload.data, OpsinError):
            return DecodedUpload(upload.name, upload.data)
        started = time.monotonic()
        image: DecodedImage | OpsinError
        try:
            image = await decoder.decode(
                upload.data,
                network=network,
                resize=resize,
                deadline_seconds=deadline.remaining,
                keep_pixels=keep_pixels,
            )
        except OpsinError as error:
            image = error
        return DecodedUpload(upload.name, image, time.monotonic() - started)

    if len(uploads) == 1:
        decoded = [await decode_one(uploads[0])]
    else:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(decode_one(upload)) for upload in uploads]
        decoded = [task.result() for task in tasks]
    for result in decoded:
        if isinstance(result.image, OpsinError) and not isinstance(result.image, _IMAGE_ERRORS):
            raise result.image
    return decoded
