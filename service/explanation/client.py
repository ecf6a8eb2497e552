"""One question about reasons on its way: from the cache, or else over a lane to a worker."""

from collections.abc import Sequence
from dataclasses import dataclass

from contracts.errors import InternalError, OpsinError
from contracts.inference.inference import LaneOperation
from contracts.queue.messages import Pixels, Reply, Vector
from service.dependencies import Services
from service.explanation.cache import Kept, key_of
from service.http.deadlines import Deadline


@dataclass(frozen=True, slots=True)
class Asked:
    """A picture and the class to explain; of no meaning where a question is not about a class."""

    pixels: Pixels
    class_index: int


@dataclass(frozen=True, slots=True)
class Told:
    """An answer.

    Attributes:
        vector: Numbers in one row, float32.
        note: What they mean, see `contracts.queue.explain_messages`.
        cached: Whether it was given before.
        queue_seconds: From the making of the item to the start of its batch.
        compute_seconds: What the batch took.
    """

    vector: Vector
    note: bytes
    cached: bool = True
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


async def ask(
    services: Services,
    model: str,
    version: int,
    operation: LaneOperation,
    asked: Sequence[Asked],
    *,
    note: bytes,
    deadline: Deadline,
) -> list[Told | OpsinError]:
    """What a version says to a question, picture by picture.

    Args:
        services: What does the work.
        model: Its name.
        version: Its number.
        operation: The lane.
        asked: The pictures.
        note: The question.
        deadline: When all must be there.

    Raises:
        OpsinError: None of it can be answered.
    """
    cache = services.explanations
    keys = [
        key_of(model, version, note, one.class_index, one.pixels) if cache.is_on else None
        for one in asked
    ]
    found: list[Told | OpsinError | None] = [
        Told(kept.vector, kept.note) if key and (kept := cache.get(key)) else None for key in keys
    ]
    missing = [at for at, one in enumerate(found) if one is None]
    replies: Sequence[Reply | OpsinError] = []
    if missing:
        replies = await services.dispatch.run(
            model,
            version,
            operation,
            [asked[at].pixels for at in missing],
            deadline=deadline.at,
            classes=[asked[at].class_index for at in missing],
            note=note,
        )
    for at, reply in zip(missing, replies, strict=True):
        told = found[at] = _told(reply)
        key = keys[at]
        if key and isinstance(told, Told):
            cache.put(key, Kept(told.vector, told.note))
    return [one for one in found if one is not None]


def _told(reply: Reply | OpsinError) -> Told | OpsinError:
    if isinstance(reply, OpsinError):
        return reply
    if reply.vector is None:
        return InternalError("The network gave nothing for this image.")
    return Told(
        reply.vector,
        reply.note,
        cached=False,
        queue_seconds=reply.queue_seconds,
        compute_seconds=reply.compute_seconds,
    )
