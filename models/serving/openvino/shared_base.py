"""Bases that the versions of one process share, each compiled once.

A version that was trained on a frozen base differs from others by its head only. Whichever version
comes first has the base compiled; those that come later use it, and the last one that goes takes
it along. Whether two versions have the same base is a question of their graphs
(`models.serving.openvino.base_cut`), not of where they come from.
"""

from collections.abc import Callable
from threading import Lock
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from contracts.garbage import release_freed
from contracts.queue.messages import Pixels
from models.serving.openvino.graph import OpenVinoGraph
from models.serving.runtime import Precision

BaseOutput = npt.NDArray[np.float32]
"""The last feature maps or their average, a row for each image: whatever the heads begin with."""

_Key = tuple[str, Precision, int]


class SharedBase:
    """A compiled base: from images to what heads begin with.

    Two versions of one process whose images can be computed together have the same object. Several
    threads may use it at once; see `OpenVinoGraph`.

    Args:
        digest: Of the base.
        graph: The base, compiled.

    Attributes:
        digest: Names the base, in hexadecimal. It is the same on every machine, and the same in
            every precision.
        batch_sizes: What was measured for a largest batch: the sizes up to the knee.
    """

    def __init__(self, digest: str, graph: OpenVinoGraph) -> None:
        self.digest = digest
        self.batch_sizes: dict[int, tuple[int, ...]] = {}
        self._graph = graph
        self._heads: WeakValueDictionary[str, OpenVinoGraph] = WeakValueDictionary()
        self._lock = Lock()
        self._is_complete = False

    def run(self, images: Pixels) -> BaseOutput:
        """The output for each image in one pass.

        Args:
            images: uint8 (n, height, width, 3) of the base's input size, n at least 1.

        Returns:
            float32 (n, ...), owned by the caller, for `finish` of any predictor with this base.
        """
        (output,) = self._graph.run(images)
        return output

    @property
    def parallel_batches(self) -> int:
        """See `OpenVinoGraph.parallel_batches`."""
        return self._graph.parallel_batches

    def parallelize(self) -> bool:
        """See `OpenVinoGraph.parallelize`.

        Returns:
            Whether that happened now, and not for another version before.
        """
        with self._lock:
            if self._is_complete:
                return False
            self._graph.parallelize()
            self._graph.forget_source()
            release_freed()
            self._is_complete = True
            return True

    def head(self, digest: str, compile_head: Callable[[], OpenVinoGraph]) -> OpenVinoGraph:
        """A compiled head, which versions with an equal one share: that of an embedding, mostly.

        Args:
            digest: Of the head.
            compile_head: Makes it if no version has it.
        """
        with self._lock:
            head = self._heads.get(digest)
            if head is None:
                head = self._heads[digest] = compile_head()
            return head


_bases: WeakValueDictionary[_Key, SharedBase] = WeakValueDictionary()
_loading = Lock()


def known_base(digest: str, precision: Precision, threads: int) -> SharedBase | None:
    """The base, if a version that is loaded has it."""
    return _bases.get((digest, precision, threads))


def shared_base(
    digest: str, precision: Precision, threads: int, compile_base: Callable[[], OpenVinoGraph]
) -> SharedBase:
    """The base of this digest, compiled unless a version that is loaded has it.

    Args:
        digest: Of the base.
        precision: In which it computes.
        threads: With how many threads.
        compile_base: Makes it.
    """
    with _loading:
        base = known_base(digest, precision, threads)
        if base is None:
            base = _bases[digest, precision, threads] = SharedBase(digest, compile_base())
        return base
