"""The pictures of a dataset as a network takes them, decoded by threads, in bounded memory.

They go through `models.images.decode.decode`, which is also what a served request goes through: a
network that was trained on another resize than it is served with loses points of accuracy.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidImage, OpsinError, ValidationFailed
from contracts.queue.messages import Pixels
from models.datasets.dataset import Example
from models.export.signatures import Blueprint
from models.images.decode import decode

Places = npt.NDArray[np.int64]

_AHEAD = 3  # batches that are being decoded while one is learned from
_BATCH_SECONDS = 300.0  # a batch that takes longer to read and decode never will be


class _Frame:
    """What `decode` makes pictures ready for."""

    def __init__(self, blueprint: Blueprint, input_size: tuple[int, int]) -> None:
        self.input_size = input_size
        self.short_side = blueprint.short_side


class Pictures:
    """Some pictures of a dataset; use it as a context manager.

    Args:
        examples: Which.
        blueprint: Says how they are resized.
        input_size: (height, width) in pixels.
        max_pixels: Largest picture that is decoded.
        memory_bytes: If all fit into this decoded, each is decoded only once.
        threads: How many decode.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        blueprint: Blueprint,
        input_size: tuple[int, int],
        *,
        max_pixels: int,
        memory_bytes: int,
        threads: int,
    ) -> None:
        self.examples = examples
        self.input_size = input_size
        self._frame = _Frame(blueprint, input_size)
        self._max_pixels = max_pixels
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        shape = (len(examples), *input_size, 3)
        fits = int(np.prod(shape)) <= memory_bytes
        self._kept: Pixels | None = np.empty(shape, np.uint8) if fits else None
        self._is_kept = np.zeros(len(examples), bool)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __len__(self) -> int:
        return len(self.examples)

    def batches(self, places: Iterable[Places]) -> Iterator[Pixels]:
        """Decode batch after batch, a few ahead of the one that is used.

        Args:
            places: Of each batch, the positions of its pictures.

        Yields:
            uint8 (n, height, width, 3).

        Raises:
            InvalidImage: A picture cannot be read; names it.
            ValidationFailed: A picture's file has gone.
        """
        waiting: deque[Future[Pixels]] = deque()
        coming = iter(places)
        for batch in itertools.islice(coming, _AHEAD):
            waiting.append(self._pool.submit(self._batch, batch))
        while waiting:
            pixels = waiting.popleft().result(timeout=_BATCH_SECONDS)
            for batch in itertools.islice(coming, 1):
                waiting.append(self._pool.submit(self._batch, batch))
            yield pixels

    def _batch(self, places: Places) -> Pixels:
        return np.stack([self._one(place) for place in places.tolist()])

    def _one(self, place: int) -> Pixels:
        if self._kept is None:
            return self._decoded(place)
        if not self._is_kept[place]:
            self._kept[place] = self._decoded(place)
            self._is_kept[place] = True  # last: a second thread may do it again, to no harm
        pixels: Pixels = self._kept[place]
        return pixels

    def _decoded(self, place: int) -> Pixels:
        example = self.examples[place]
        try:
            data = example.read()
            return decode(data, network=self._frame, max_pixels=self._max_pixels).pixels
        except OSError as gone:
            raise ValidationFailed(
                f"A picture of class '{example.label}' ({example.path.name}) can no longer be "
                "read; was the dataset changed? Start the training again."
            ) from gone
        except OpsinError as broken:
            raise InvalidImage(
                f"{example.path.name} of class '{example.label}': {broken.detail}"
            ) from broken
