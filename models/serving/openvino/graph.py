"""One graph, compiled by OpenVINO: whole, and where that is quicker once more for pieces.

A lone picture is computed by all threads together. A batch may be cut into pieces, which the
threads take one after the other: small operators are spread badly over threads, so that two halves
side by side take SqueezeNet three quarters of the time of one whole; and threads that share a piece
wait for each other, which costs most where something else wants a core as well. Large graphs gain
nothing by it and would lie in memory twice. So which way a batch goes is measured when the version
is loaded, by its first endpoint.

Compiled graphs are not kept on the disk: compiling VGG16 anew takes 0.5 s and reading its cached
553 MB takes 0.6 s; for SqueezeNet it is 0.18 s against 0.07 s.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.serving.runtime import Precision, RuntimeUnavailableError

Array = npt.NDArray[Any]

# Less is not worth a second copy of the compiled weights.
_WORTH = 1.1
# Pictures in a piece: twos and fours cost the same by 5 %, ones a tenth more.
_PIECE = 2
_ROUNDS = 3
_STRAY = 0.05
# The bytes of a graph's weights above which no second copy is tried.
_LARGE = 64 * 1024 * 1024


def is_large(folder: Path) -> bool:
    """Whether a version's weights are so many that nothing is gained by a second copy."""
    variables = folder / "saved_model" / "variables"
    return sum(file.stat().st_size for file in variables.iterdir()) > _LARGE


class OpenVinoGraph:
    """Runs batches: arrays of n rows in, arrays of n rows out, in the order of the graph's own.

    Args:
        openvino: The module.
        core: Compiles.
        read: The graph, anew each time.
        precision: To compute in; int8 has bfloat16 between its layers where there is any.
        threads: To compute with.
        large: See `is_large`.

    Raises:
        RuntimeUnavailableError: OpenVINO cannot compile it.
    """

    def __init__(
        self,
        openvino: Any,
        core: Any,
        read: Callable[[], Any],
        *,
        precision: Precision,
        threads: int,
        large: bool,
    ) -> None:
        self._openvino = openvino
        self._core = core
        self._read = read
        self._precision = precision
        self._threads = threads
        self._large = large
        self._alone = self._compiled(1).create_infer_request()
        self._pieces: _Pieces | None = None

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of its pictures, which are its first input."""
        shape = self._alone.get_compiled_model().inputs[0].partial_shape
        return shape[1].get_length(), shape[2].get_length()

    def run(self, *given: Array) -> tuple[Array, ...]:
        """Answers for arrays of equally many rows, at least one.

        Returns:
            The caller's own; float32 where they are numbers with fractions.
        """
        rows = {len(one) for one in given}
        if len(rows) != 1:  # OpenVINO would read beyond the shorter one
            raise ValueError(f"inputs of one length are wanted, not of {sorted(rows)}")
        if self._pieces is not None and rows.pop() > 1:
            return self._side_by_side(self._pieces, given)
        return self._together(given)

    def tune(
        self,
        sizes: Sequence[int],
        *more: Callable[[int], Array],
        known: bool | None = None,
    ) -> bool | None:
        """Measure whether a batch is quicker in pieces; keep that if it is.

        Args:
            sizes: Of the batches that will come, ascending.
            more: Makes the inputs beside the pictures, of so many rows.
            known: What another endpoint of the version found, which is then not measured again.

        Returns:
            Whether it is; None where there was nothing to measure.
        """
        if sizes[-1] < _PIECE * self._threads or self._threads == 1 or self._large:
            return known
        if known is False:
            return known
        pieces = _Pieces(self._compiled(self._threads))
        size = 2 * _PIECE * self._threads
        images = np.random.default_rng(0).integers(0, 256, (size, *self.input_size, 3), np.uint8)
        given = (images, *(make(size) for make in more))
        # The gate has judged the whole; pieces are another graph, and must say the same.
        expected, found = self._together(given), self._side_by_side(pieces, given)
        if any(map(_strays, expected, found)):
            return known
        if known or self._is_quicker(pieces, given):
            self._pieces = pieces
            # An odd batch ends in a piece of one, which is another shape to each stream.
            ones = [[self._tensor(one[:1]) for one in given]] * self._threads
            pieces.run(ones)
        return self._pieces is not None

    def _is_quicker(self, pieces: "_Pieces", given: Sequence[Array]) -> bool:
        whole = _quickest(partial(self._together, given))
        return whole > _WORTH * _quickest(partial(self._side_by_side, pieces, given))

    def _together(self, given: Sequence[Array]) -> tuple[Array, ...]:
        self._alone.infer([self._tensor(one) for one in given])
        return _copied(self._alone)

    def _side_by_side(self, pieces: "_Pieces", given: Sequence[Array]) -> tuple[Array, ...]:
        # The tensors show memory of ours, and so must outlive their requests' runs.
        tensors = [
            [self._tensor(one[at : at + _PIECE]) for one in given]
            for at in range(0, len(given[0]), _PIECE)
        ]
        told = pieces.run(tensors)
        return tuple(np.concatenate(parts) for parts in zip(*told, strict=True))

    def _tensor(self, rows: Array) -> Any:
        return self._openvino.Tensor(np.ascontiguousarray(rows), shared_memory=True)

    def _compiled(self, streams: int) -> Any:
        capable = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        bfloat16 = capable and self._precision != "float32"
        told: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": streams,
        }
        try:
            return self._core.compile_model(self._read(), "CPU", told)
        except (RuntimeError, ValueError) as error:
            raise RuntimeUnavailableError("OpenVINO cannot read its graph") from error


class _Pieces:
    """A graph compiled with a stream for each thread, and the requests that run on them."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._requests: list[Any] = []

    def run(self, pieces: Sequence[Sequence[Any]]) -> list[tuple[Array, ...]]:
        """The answers for each piece's tensors: whichever thread is free takes the next."""
        while len(self._requests) < len(pieces):
            self._requests.append(self._compiled.create_infer_request())
        requests = self._requests[: len(pieces)]
        for request, inputs in zip(requests, pieces, strict=True):
            request.start_async(inputs)
        # All must have ended before anything is raised: they read memory of the caller's.
        failures = [error for error in map(_ended, requests) if error is not None]
        if failures:
            raise failures[0]
        return [_copied(request) for request in requests]


def _ended(request: Any) -> RuntimeError | None:
    """Why it failed, once it has ended."""
    try:
        request.wait()
    except RuntimeError as error:
        return error
    return None


def _copied(request: Any) -> tuple[Array, ...]:
    # The request's own memory is written over by its next run.
    told = [tensor.data for tensor in request.output_tensors]
    return tuple(
        one.astype(np.float32 if one.dtype.kind == "f" else one.dtype, copy=True) for one in told
    )


def _strays(expected: Array, found: Array) -> bool:
    most = _STRAY * max(1.0, float(np.abs(expected).max()))
    return not bool(np.abs(expected - found).max() <= most)  # also where one is no number


def _quickest(run: Callable[[], object]) -> float:
    """Seconds of the quickest of a few runs, after one that only warms."""
    run()
    times = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)
