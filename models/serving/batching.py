"""Batches of bounded size, padded to a few sizes where an engine wants to have met them before.

TensorFlow and XLA pay dearly for the first batch of a size, so theirs are padded, here once for the
networks and for the versions alike. To OpenVINO a new size is a matter of milliseconds, once.
"""

import math
from collections.abc import Callable, Iterator
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
        pads: Else the last size is the only one that matters.
    """

    sizes: tuple[int, ...]
    pads: bool = True

    @classmethod
    def up_to(cls, largest: int, pads: bool = True) -> Self:
        """Powers of two up to `largest`, and `largest` itself: at most half is padding."""
        powers = [2**n for n in range(int(math.log2(largest)) + 1)]
        return cls(tuple(dict.fromkeys([*powers, largest])), pads)

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
        rows = [answer(*batch)[:count] for batch, count in self.padded(*given)]
        if len(rows) == 1:
            return rows[0]
        return np.concatenate(rows) if rows else np.zeros((0, width), np.float32)

    def padded(self, *given: npt.NDArray[Any]) -> Iterator[tuple[list[npt.NDArray[Any]], int]]:
        """Arrays of equal length in batches, the last one padded with zeros if need be.

        Yields:
            The batch of each array, and how many of its rows are real.
        """
        for at in range(0, len(given[0]), self.sizes[-1]):
            batch = [one[at : at + self.sizes[-1]] for one in given]
            count = len(batch[0])
            padding = next(size for size in self.sizes if size >= count) - count
            if self.pads and padding:
                batch = [_padded(one, padding) for one in batch]
            yield batch, count


def _padded(rows: npt.NDArray[Any], padding: int) -> npt.NDArray[Any]:
    """The rows and `padding` more of zeros; `np.pad` does the same in ten times the calls."""
    whole = np.empty((len(rows) + padding, *rows.shape[1:]), rows.dtype)
    whole[: len(rows)] = rows
    whole[len(rows) :] = 0
    return whole
