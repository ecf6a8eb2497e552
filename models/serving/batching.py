"""Batches of bounded size, padded to a few sizes for runtimes that are slow on a new size.

The first batch of a size is expensive for TensorFlow and XLA, so their batches are padded. OpenVINO
needs only milliseconds for a new size.
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
        sizes: Ascending; larger inputs run in pieces of the last size.
        pads: Whether to pad. If not, only the last size matters.
    """

    sizes: tuple[int, ...]
    pads: bool = True

    @classmethod
    def up_to(cls, largest: int, pads: bool = True) -> Self:
        """Powers of two up to `largest`, and `largest` itself: at most half is padding."""
        powers = [2**n for n in range(int(math.log2(largest)) + 1)]
        return cls(tuple(dict.fromkeys([*powers, largest])), pads)

    def run(
        self, compute: Callable[..., Outputs], *arrays: npt.NDArray[Any], width: int = 0
    ) -> Outputs:
        """Compute a result for any number of rows.

        Args:
            compute: Called with a piece of each array, padded with zeros to one of `sizes`;
                returns a row for each of their rows.
            arrays: Arrays of equal length, at least one.
            width: Length of a result row; needed only if there may be no rows.

        Returns:
            The result rows, without those of the padding.
        """
        rows = [compute(*batch)[:count] for batch, count in self.padded(*arrays)]
        if len(rows) == 1:
            return rows[0]
        return np.concatenate(rows) if rows else np.zeros((0, width), np.float32)

    def padded(self, *arrays: npt.NDArray[Any]) -> Iterator[tuple[list[npt.NDArray[Any]], int]]:
        """Arrays of equal length in batches, the last one padded with zeros if necessary.

        Yields:
            The batch of each array, and the number of its rows without padding.
        """
        for start in range(0, len(arrays[0]), self.sizes[-1]):
            batch = [array[start : start + self.sizes[-1]] for array in arrays]
            count = len(batch[0])
            padding = next(size for size in self.sizes if size >= count) - count
            if self.pads and padding:
                batch = [_padded(array, padding) for array in batch]
            yield batch, count


def _padded(rows: npt.NDArray[Any], padding: int) -> npt.NDArray[Any]:
    """The rows and `padding` rows of zeros; `np.pad` makes ten times as many calls."""
    whole = np.empty((len(rows) + padding, *rows.shape[1:]), rows.dtype)
    whole[: len(rows)] = rows
    whole[len(rows) :] = 0
    return whole
