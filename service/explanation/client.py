"""Requests explanations: from the cache, otherwise through a queue from a worker."""

from collections.abc import Sequence
from dataclasses import dataclass

from contracts.errors import InternalError, OpsinError
from contracts.queue.messages import Pixels, Reply, Vector
from contracts.queue.redis_keys import QueueName
from service.dependencies import Services
from service.explanation.cache import CachedExplanation, key_of
from service.http.deadlines import Deadline
from service.metrics.request_record import current_record


@dataclass(frozen=True, slots=True)
class ExplainItem:
    """An image and the class to explain, which requests for activations ignore."""

    pixels: Pixels
    class_index: int


@dataclass(frozen=True, slots=True)
class ExplainResult:
    """The explanation of one image.

    Attributes:
        vector: Numbers in one row, float32.
        note: What they mean, see `contracts.queue.explain_messages`.
        cached: Whether it was computed for an earlier request.
        queue_seconds: From the creation of the item to the start of its batch.
        compute_seconds: The duration of the batch.
    """

    vector: Vector
    note: bytes
    cached: bool = True
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


async def request_explanations(
    services: Services,
    queue: QueueName,
    items: Sequence[ExplainItem],
    *,
    note: bytes,
    deadline: Deadline,
    kept: int = 0,
) -> list[ExplainResult | OpsinError]:
    """Run one explain request for each image and return the results in order.

    Args:
        services: The application's services.
        queue: The version that answers, and the operation.
        items: The images.
        note: The request, encoded.
        deadline: When all results must have arrived.
        kept: Bytes that the request keeps besides the images until then.

    Raises:
        OpsinError: The request failed as a whole.
    """
    cache = services.explanations
    keys = [
        key_of(queue.model, queue.version, note, item.class_index, item.pixels)
        if cache.enabled
        else None
        for item in items
    ]
    results: list[ExplainResult | OpsinError | None] = [
        ExplainResult(entry.vector, entry.note) if key and (entry := cache.get(key)) else None
        for key in keys
    ]
    missing = [index for index, result in enumerate(results) if result is None]
    record = current_record()
    if cache.enabled:
        record.count("heatmap_cache_requests_total", "hit", by=len(items) - len(missing))
        record.count("heatmap_cache_requests_total", "miss", by=len(missing))
    record.sent(queue)
    replies: Sequence[Reply | OpsinError] = []
    if missing:
        replies = await services.dispatcher.run(
            queue,
            [items[index].pixels for index in missing],
            deadline=deadline.at,
            classes=[items[index].class_index for index in missing],
            note=note,
            kept=kept,
        )
    record.answered += [""] * (len(items) - len(missing))
    for index, reply in zip(missing, replies, strict=True):
        result = results[index] = _to_result(reply)
        key = keys[index]
        if key and isinstance(result, ExplainResult):
            cache.put(key, CachedExplanation(result.vector, result.note))
    return [result for result in results if result is not None]


def _to_result(reply: Reply | OpsinError) -> ExplainResult | OpsinError:
    if isinstance(reply, OpsinError):
        return reply
    if reply.vector is None:
        return InternalError("The network gave nothing for this image.")
    return ExplainResult(
        reply.vector,
        reply.note,
        cached=False,
        queue_seconds=reply.queue_seconds,
        compute_seconds=reply.compute_seconds,
    )
