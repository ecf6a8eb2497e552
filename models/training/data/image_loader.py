"""Decodes the images of a dataset with threads and in bounded memory.

Uses `models.images.decode.decode`, like a served request: a network that is trained with another
resize than it is served with loses points of accuracy.
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
from models.images.decode import InputSpec, decode

Indices = npt.NDArray[np.int64]

_PREFETCHED_BATCHES = 3
_BATCH_TIMEOUT_SECONDS = 300.0  # for reading and decoding one batch


class ImageLoader:
    """Some images of a dataset; use it as a context manager.

    Args:
        examples: The images.
        spec: How they are resized.
        max_pixels: Largest image that is decoded.
        memory_bytes: If all decoded images fit into this, each one is decoded only once.
        threads: Number of decoding threads.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        spec: InputSpec,
        *,
        max_pixels: int,
        memory_bytes: int,
        threads: int,
    ) -> None:
        self.examples = examples
        self.spec = spec
        self._max_pixels = max_pixels
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        shape = (len(examples), *spec.input_size, 3)
        fits = int(np.prod(shape)) <= memory_bytes
        self._cache: Pixels | None = np.empty(shape, np.uint8) if fits else None
        self._is_cached = np.zeros(len(examples), bool)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __len__(self) -> int:
        return len(self.examples)

    def batches(self, indices: Iterable[Indices]) -> Iterator[Pixels]:
        """Decode batch after batch, a few ahead of the one in use.

        Args:
            indices: The images of each batch.

        Yields:
            uint8 (n, height, width, 3).

        Raises:
            InvalidImage: An image cannot be decoded; the message names it.
            ValidationFailed: An image file is missing.
        """
        pending: deque[Future[Pixels]] = deque()
        remaining = iter(indices)
        for batch in itertools.islice(remaining, _PREFETCHED_BATCHES):
            pending.append(self._pool.submit(self._batch, batch))
        while pending:
            pixels = pending.popleft().result(timeout=_BATCH_TIMEOUT_SECONDS)
            for batch in itertools.islice(remaining, 1):
                pending.append(self._pool.submit(self._batch, batch))
            yield pixels

    def _batch(self, indices: Indices) -> Pixels:
        return np.stack([self._image(index) for index in indices.tolist()])

    def _image(self, index: int) -> Pixels:
        if self._cache is None:
            return self._decode(index)
        if not self._is_cached[index]:
            self._cache[index] = self._decode(index)
            self._is_cached[index] = True  # last: a second thread may harmlessly decode it again
        pixels: Pixels = self._cache[index]
        return pixels

    def _decode(self, index: int) -> Pixels:
        example = self.examples[index]
        try:
            data = example.read()
            return decode(data, network=self.spec, max_pixels=self._max_pixels).pixels
        except OSError as error:
            raise ValidationFailed(
                f"An image of class '{example.label}' ({example.path.name}) can no longer be "
                "read. If the dataset was changed, start the training again."
            ) from error
        except OpsinError as error:
            raise InvalidImage(
                f"{example.path.name} of class '{example.label}': {error.detail}"
            ) from error
