"""Batches of a few fixed sizes, so that no request meets a size that was never run before.

A graph takes any number of pictures, but each new number costs the kernels of every engine a
first, slow run. Padding is written here once, for the networks and for the versions alike.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Outputs = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Batches:
    """The sizes a batch is padded to.

    Attributes:
        sizes: Ascending; what is larger than the last is run in pieces of it.
    """

    sizes: tuple[int, ...]

    @classmethod
    def up_to(cls, largest: int) -> Self:
        """Powers of two up to `largest`, and `largest` itself: at most half is padding."""
        powers = [2**n for n in range(int(math.log2(largest)) + 1)]
        return cls(tuple(dict.fromkeys([*powers, largest])))

    def run(
        self, answer: Callable[..., Outputs], *given: npt.NDArray[Any], width: int = 0
    ) -> Outputs:
        """Answer for each row, however many there are.

        Args:
            answer: Called with a piece of each array, padded with zeros to one of `sizes`; gives
                one row for each of theirs.
            given: Arrays of equal length, at least one.
            width: Length of a row of the answer; needed only where there may be no rows.

        Returns:
            The rows of the answers, without those of the padding.
        """
        count, largest = len(given[0]), self.sizes[-1]
        pieces = [
            self._padded(answer, [one[at : at + largest] for one in given])
            for at in range(0, count, largest)
        ]
        return np.concatenate(pieces) if pieces else np.zeros((0, width), np.float32)

    def _padded(self, answer: Callable[..., Outputs], given: list[npt.NDArray[Any]]) -> Outputs:
        count = len(given[0])
        padding = next(size for size in self.sizes if size >= count) - count
        if not padding:
            return answer(*given)
        rows = [np.pad(one, ((0, padding), *[(0, 0)] * (one.ndim - 1))) for one in given]
        return answer(*rows)[:count]
