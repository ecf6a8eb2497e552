"""Batches of a few fixed sizes: each new size costs the kernels a first, slow run."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt


def batch_sizes(largest: int) -> tuple[int, ...]:
    """Powers of two up to `largest`, and `largest` itself: at most half of a batch is padding."""
    powers = [2**n for n in range(int(math.log2(largest)) + 1)]
    return tuple(dict.fromkeys([*powers, largest]))


def padded(
    sizes: tuple[int, ...], *arrays: npt.NDArray[Any]
) -> Iterator[tuple[list[npt.NDArray[Any]], int]]:
    """Arrays of the same length, at least 1, in batches, the last padded with zeros to a size.

    Yields:
        The batch of each array, and how many of its rows are real.
    """
    for at in range(0, len(arrays[0]), sizes[-1]):
        batch = [array[at : at + sizes[-1]] for array in arrays]
        count = len(batch[0])
        padding = next(size for size in sizes if size >= count) - count
        yield [np.pad(a, ((0, padding), *[(0, 0)] * (a.ndim - 1))) for a in batch], count
