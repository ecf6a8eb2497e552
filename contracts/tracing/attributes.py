"""Attributes of spans, with names that all processes agree on."""

from contracts.queue.redis_keys import QueueName


def attributes_of(queue: QueueName, images: int) -> dict[str, str | int]:
    """For work on images of one queue."""
    return {
        "opsin__model": queue.model,
        "opsin__version": queue.version,
        "opsin__operation": queue.operation,
        "opsin__images": images,
    }
