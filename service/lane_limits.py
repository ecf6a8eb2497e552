"""How many items each lane may hold: pictures are small and many, clips large and few."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from contracts.inference import LaneOperation
from contracts.settings import Settings


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """The bounds.

    Attributes:
        usual: Of most lanes.
        special: Of some operations.
    """

    usual: int
    special: Mapping[LaneOperation, int] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """As this installation is configured."""
        return cls(settings.queue_limit, {"clip": settings.clip_queue_limit})

    def most(self, lane: str) -> int:
        """What a lane may hold.

        Args:
            lane: As `contracts.names.lane` calls it.
        """
        operation = lane.rpartition(":")[2]
        return next((most for of, most in self.special.items() if of == operation), self.usual)
