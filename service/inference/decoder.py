"""Decoding off the event loop: bounded pools of threads, and a deadline on every wait.

Threads are enough: Pillow releases the interpreter lock while it decodes and resizes, and NumPy
while it reads tensors.

A file of two kilobytes can be an image of 50 megapixels, which takes seconds and hundreds of
megabytes. So large images have threads of their own, and a budget of pixels bounds how many are in
memory together; an ordinary image never waits for one. HEIF and AVIF, which a process decodes, have
threads of their own as well, since their size says little about the time that they take.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from contracts.errors import OpsinError, PayloadTooLarge, ValidationFailed
from contracts.inference.inference import Resize
from contracts.tracing.spans import span
from models.images.decode import DecodedImage, decode
from models.images.gate import (
    LARGE_PIXELS,
    LEAST_LARGE,
    Gate,
    LargeImageError,
    at_once,
    refuse_large,
)
from models.images.resize import ImageInput
from service.http.deadlines import Deadline
from service.http.uploads import Upload
from service.inference.fair_pool import FairPool
from service.inference.pixel_budget import PixelBudget
from service.metrics.request_record import current_record

T = TypeVar("T")
ResultT_co = TypeVar("ResultT_co", covariant=True)

# Waiting images hold their bytes: at 16 MiB each this is the API's largest use of memory.
_WAITING_PER_THREAD = 32
_MOST_ISOLATED = 8  # processes, each of which may be made to take half a gigabyte


class ImageWork(Protocol[ResultT_co]):
    """Decodes an image; `large` as for `models.images.decode.decode`."""

    def __call__(self, *, large: Gate) -> ResultT_co: ...


class Decoder:
    """The threads of one API process that work on images; belongs to one event loop.

    Args:
        threads: Images decoded at the same time; besides, as many isolated ones, at most eight,
            and half as many large ones.
        max_pixels: See `models.images.decode.decode`.
        max_images: Images of the largest request, which an idle pool can always take.
        budget: Of the pixels of large images, shared with others; by default `max_pixels`.
    """

    def __init__(
        self,
        threads: int,
        *,
        max_pixels: int,
        max_images: int = 1,
        budget: PixelBudget | None = None,
    ) -> None:
        self._max_pixels = max_pixels
        share = max(threads * (1 + _WAITING_PER_THREAD), max_images)
        places = 2 * share  # so that one client cannot take all
        self._pool = FairPool(threads, name="decode", places=places, share=share)
        isolated = min(threads, _MOST_ISOLATED)
        self._isolated = FairPool(isolated, name="decode-isolated", places=places, share=share)
        self._large = FairPool(
            max(1, threads // 2),
            name="decode-large",
            places=places,
            share=share,
            budget=budget or PixelBudget(max_pixels),
        )

    async def decode(
        self,
        data: bytes | memoryview,
        *,
        network: ImageInput,
        resize: Resize | None,
        deadline_seconds: float,
        keep_pixels: int = 0,
        when_slow: Callable[[], None] = lambda: None,
    ) -> DecodedImage:
        """Decode one image, see `models.images.decode.decode`.

        Args:
            data: The file, as it was sent.
            network: The network whose input the image becomes.
            resize: ``crop`` or ``squash``; None for the network's own way.
            deadline_seconds: How long to wait, from now.
            keep_pixels: See `models.images.decode.decode`.
            when_slow: Called if it is large or takes a process, and waits with the others of those.

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
        return await self.run_image(work, deadline_seconds=deadline_seconds, when_slow=when_slow)

    async def run_image(
        self,
        work: ImageWork[T],
        *,
        deadline_seconds: float,
        when_slow: Callable[[], None] = lambda: None,
    ) -> T:
        """Run `work`, which decodes an image; a large one in a thread for large ones.

        Args:
            work: Called again with another gate if the image turns out to be large.
            deadline_seconds: How long to wait, from now.
            when_slow: As for `decode`.

        Raises:
            OpsinError: As for `run`.
        """
        until = time.monotonic() + deadline_seconds
        try:
            return await self.run(
                partial(work, large=refuse_large), deadline_seconds=deadline_seconds
            )
        except LargeImageError as error:
            pixels = error.pixels
        when_slow()
        pool = self._large if pixels > LEAST_LARGE else self._isolated
        return await pool.run(
            partial(work, large=at_once),
            deadline_seconds=until - time.monotonic(),
            pixels=pixels,
        )

    async def run(self, work: Callable[[], T], *, deadline_seconds: float, pixels: int = 0) -> T:
        """Run `work` in a thread, see `service.inference.fair_pool.FairPool.run`.

        Args:
            work: Processes the data of one client. It may raise.
            deadline_seconds: How long to wait, from now.
            pixels: Of the image that it works on, if it does at full size.

        Raises:
            DeadlineExceeded: It was not done in time.
            QueueFull: Too many images wait already.
            Draining: The pool is closed.
        """
        pool = self._large if pixels > LARGE_PIXELS else self._pool
        return await pool.run(work, deadline_seconds=deadline_seconds, pixels=pixels)

    def require_room(self) -> None:
        """Refuse early: a request none of whose images would be decoded need not be read.

        Raises:
            QueueFull: As `run`.
            Draining: As `run`.
        """
        self._pool.require_place()

    def close(self) -> None:
        """Accept no more images and drop those that wait; does not wait for running ones."""
        for pool in (self._pool, self._isolated, self._large):
            pool.close()


async def decode_image(decoder: Decoder, work: ImageWork[T], *, deadline: Deadline) -> T:
    """Decode one image of a request by `work`, and note how long that took and how it ended.

    Raises:
        OpsinError: As for `Decoder.run_image`.
    """
    record, started, code = current_record(), time.monotonic(), ""
    try:
        with span("decode", opsin__images=1):
            return await decoder.run_image(work, deadline_seconds=deadline.remaining)
    except OpsinError as error:
        code = error.code
        raise
    finally:
        record.decoded.append((time.monotonic() - started, code))


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
    when_slow: Callable[[], None] = lambda: None,
) -> list[DecodedUpload]:
    """Decode the images of one request concurrently; the errors of single images stay with them.

    Args:
        decoder: Its threads bound the concurrency.
        uploads: The images, each with its bytes or an error.
        network: The network whose input they become.
        resize: ``crop`` or ``squash``; None for the network's own way.
        deadline: The request's.
        keep_pixels: See `models.images.decode.decode`.
        when_slow: See `Decoder.decode`; called for each such image.

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
                when_slow=when_slow,
            )
        except OpsinError as error:
            image = error
        return DecodedUpload(upload.name, image, time.monotonic() - started)

    with span("decode", opsin__images=len(uploads)):
        if len(uploads) == 1:
            decoded = [await decode_one(uploads[0])]
        else:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(decode_one(upload)) for upload in uploads]
            decoded = [task.result() for task in tasks]
    record = current_record()
    for result in decoded:
        error = result.image.code if isinstance(result.image, OpsinError) else ""
        record.decoded.append((result.seconds, error))
    for result in decoded:
        if isinstance(result.image, OpsinError) and not isinstance(result.image, _IMAGE_ERRORS):
            raise result.image
    return decoded
