"""The images of one request, decoded side by side; what is wrong with one stays with it."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.errors import OpsinError, PayloadTooLarge, ValidationFailed
from contracts.inference import Resize
from models.images import Target
from service.deadlines import Deadline
from service.services import Decoder, Picture
from service.uploads import Upload

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
        keep_pixels: See `models.images.decode`.

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
