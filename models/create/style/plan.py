"""The sizes of a pyramid, and how a style transfer's evaluations are shared out among them."""

from collections.abc import Sequence
from dataclasses import dataclass

from models.create.images import scaled_size
from models.images.resize import Size

_SMALLEST = 128
"""Pixels of the longer side of the smallest size; below it nothing of a style is left."""
_RATIO = 2**0.5
_POWER = 1.5
"""A size half as large gets 2 to this power as many evaluations, which cost a quarter each."""


@dataclass(frozen=True, slots=True)
class Level:
    """One size of the pyramid.

    Attributes:
        size: (width, height) in pixels.
        evaluations: Of loss and gradient.
    """

    size: Size
    evaluations: int

    @property
    def cost(self) -> int:
        """In evaluated pixels."""
        return self.size[0] * self.size[1] * self.evaluations


def plan(size: Size, iterations: int, *, pyramid: bool, minimum_side: int) -> list[Level]:
    """The levels, from small to the full size; each has one evaluation at least.

    Args:
        size: Of the result.
        iterations: Evaluations in all. With fewer of them than sizes, the smallest are left out.
        pyramid: Whether to begin small.
        minimum_side: No side of a level is shorter.
    """
    sides = [float(max(size))]
    while pyramid and sides[0] / _RATIO >= _SMALLEST - 1 and len(sides) < iterations:
        sides.insert(0, sides[0] / _RATIO)
    shares = [(sides[-1] / side) ** _POWER for side in sides]
    sizes = [scaled_size(size, round(side), minimum_side) for side in sides[:-1]] + [size]
    counts = _shared(iterations, shares)
    return [Level(one, count) for one, count in zip(sizes, counts, strict=True)]


def _shared(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers above 0 in these proportions, with that sum; the first takes what is left."""
    counts = [max(1, int(total * share / sum(shares))) for share in shares]
    counts[0] += total - sum(counts)
    for index in range(len(counts) - 1):
        if counts[index] < 1:  # too few for all: the next gives what is missing
            counts[index + 1] += counts[index] - 1
            counts[index] = 1
    return counts


def shares_of(weights: Sequence[float] | None, styles: int) -> list[float]:
    """The share of each style; their sum is 1, and they are equal without weights."""
    weights = weights or [1.0] * styles
    return [weight / sum(weights) for weight in weights]
