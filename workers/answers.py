"""What a network's batch came to, image by image, before it is sent."""

from dataclasses import dataclass

from contracts.messages import Vector


@dataclass(frozen=True, slots=True)
class Answer:
    """One image's.

    Attributes:
        vector: The numbers, float32, in one row.
        note: What they mean, where the lane alone does not say it; see `contracts.notes`.
    """

    vector: Vector
    note: bytes = b""
