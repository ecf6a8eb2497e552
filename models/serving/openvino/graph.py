"""One graph compiled by OpenVINO, and compiled a second time for parallel pieces if that is faster.

All threads together compute a single image. A batch may be cut into pieces that the threads take
one by one: small operators spread badly over threads, so SqueezeNet takes three quarters of the
time in two parallel halves, and threads that share a piece wait for each other, which costs most
when other processes need a core. Large graphs gain nothing and would be in memory twice. The better
way is measured when the version is loaded, by its first endpoint.

Compiled graphs are not cached on disk: compiling VGG16 takes 0.5 s and reading its cached 553 MB
takes 0.6 s; for SqueezeNet it is 0.18 s and 0.07 s.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.serving.openvino.last_product import split_before_last_product
from models.serving.runtime import Precision, RuntimeUnavailableError

Array = npt.NDArray[Any]

_MIN_SPEEDUP = 1.1  # less is not worth a second copy of the compiled weights
_PIECE = 2  # images: twos and fours cost the same within 5%, ones a tenth more
_ROUNDS = 3
_MAX_DEVIATION = 0.05
_LARGE = 64 * 1024 * 1024  # bytes of weights above which no second copy is tried


def is_large(folder: Path) -> bool:
    """Whether a version's weights are so large that a second copy gains nothing."""
    variables = folder / "saved_model" / "variables"
    return sum(file.stat().st_size for file in variables.iterdir()) > _LARGE


class OpenVinoGraph:
    """Runs batches: arrays of n rows in, arrays of n rows out, in the order of the graph's.

    Args:
        openvino: The module.
        core: An `openvino.Core`.
        read: Reads the graph; called for each compilation.
        precision: To compute in; int8 uses bfloat16 between its layers if the processor can.
        threads: The number of threads.
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
        self._threads = threads
        self._large = large
        capable = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self._bfloat16 = capable and precision != "float32"
        self._tail: Any = None  # the last product and what follows, if that is in float32
        self._single = self._compiled(1).create_infer_request()
        self._pieces: _Pieces | None = None

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the images, which are the first input."""
        shape = self._single.get_compiled_model().inputs[0].partial_shape
        return shape[1].get_length(), shape[2].get_length()

    def run(self, *arrays: Array) -> tuple[Array, ...]:
        """The outputs for arrays with equally many rows, at least one.

        Returns:
            Copies that belong to the caller; floating-point ones are float32.
        """
        rows = {len(array) for array in arrays}
        if len(rows) != 1:  # OpenVINO would read beyond the shorter one
            raise ValueError(f"inputs must have one length, not {sorted(rows)}")
        if self._pieces is not None and rows.pop() > 1:
            return self._finished(self._run_in_pieces(self._pieces, arrays))
        return self._finished(self._run_whole(arrays))

    def tune(
        self,
        sizes: Sequence[int],
        *more: Callable[[int], Array],
        known: bool | None = None,
    ) -> bool | None:
        """Measure whether a batch is faster in pieces, and use pieces if it is.

        Args:
            sizes: Batch sizes to expect, ascending.
            more: Make the inputs other than the images, with so many rows.
            known: The result for another endpoint of the version, which is then not repeated.

        Returns:
            Whether pieces are used; None if there was nothing to measure.
        """
        if sizes[-1] < _PIECE * self._threads or self._threads == 1 or self._large:
            return known
        if known is False:
            return known
        pieces = _Pieces(self._compiled(self._threads))
        size = 2 * _PIECE * self._threads
        images = np.random.default_rng(0).integers(0, 256, (size, *self.input_size, 3), np.uint8)
        arrays = (images, *(make(size) for make in more))
        # The parity gate has checked the whole; pieces are another graph and must agree with it.
        expected, actual = self._run_whole(arrays), self._run_in_pieces(pieces, arrays)
        if any(map(_deviates, expected, actual)):
            return known
        if known or self._is_faster(pieces, arrays):
            self._pieces = pieces
            # An odd batch ends in a piece of one, a shape that each stream has to meet once.
            ones = [[self._tensor(array[:1]) for array in arrays]] * self._threads
            pieces.run(ones)
        return self._pieces is not None

    def _is_faster(self, pieces: "_Pieces", arrays: Sequence[Array]) -> bool:
        whole = _shortest_seconds(partial(self._run_whole, arrays))
        return whole > _MIN_SPEEDUP * _shortest_seconds(
            partial(self._run_in_pieces, pieces, arrays)
        )

    def _run_whole(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        self._single.infer([self._tensor(array) for array in arrays])
        return _copied_outputs(self._single)

    def _run_in_pieces(self, pieces: "_Pieces", arrays: Sequence[Array]) -> tuple[Array, ...]:
        # The tensors share our memory and must outlive the runs of their requests.
        tensors = [
            [self._tensor(array[start : start + _PIECE]) for array in arrays]
            for start in range(0, len(arrays[0]), _PIECE)
        ]
        outputs = pieces.run(tensors)
        return tuple(np.concatenate(parts) for parts in zip(*outputs, strict=True))

    def _finished(self, outputs: tuple[Array, ...]) -> tuple[Array, ...]:
        if self._tail is None:
            return outputs
        self._tail.infer([self._tensor(output) for output in outputs])
        return _copied_outputs(self._tail)

    def _tensor(self, rows: Array) -> Any:
        rows = np.ascontiguousarray(rows)
        if not rows.flags.writeable:  # OpenVINO shares no array that it could not write to
            rows = rows.copy()
        return self._openvino.Tensor(rows, shared_memory=True)

    def _compiled(self, streams: int) -> Any:
        """Compile the graph; in bfloat16 without its last product, which `_tail` computes."""
        try:
            model = self._read()
            parts = split_before_last_product(self._openvino, model) if self._bfloat16 else None
            if parts is None:
                return self._compile(model, "bf16" if self._bfloat16 else "f32", streams)
            trunk, tail = parts
            self._tail = self._tail or self._compile(tail, "f32", 1).create_infer_request()
            return self._compile(trunk, "bf16", streams)
        except (RuntimeError, ValueError) as error:
            raise RuntimeUnavailableError("OpenVINO cannot read its graph") from error

    def _compile(self, model: Any, precision: str, streams: int) -> Any:
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": streams,
        }
        return self._core.compile_model(model, "CPU", properties)


class _Pieces:
    """A graph compiled with a stream for each thread, and its infer requests."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._requests: list[Any] = []

    def run(self, pieces: Sequence[Sequence[Any]]) -> list[tuple[Array, ...]]:
        """The outputs for each piece's tensors; the next free thread takes the next piece."""
        while len(self._requests) < len(pieces):
            self._requests.append(self._compiled.create_infer_request())
        requests = self._requests[: len(pieces)]
        for request, inputs in zip(requests, pieces, strict=True):
            request.start_async(inputs)
        # All must have ended before anything is raised: they read the caller's memory.
        failures = [error for error in map(_wait, requests) if error is not None]
        if failures:
            raise failures[0]
        return [_copied_outputs(request) for request in requests]


def _wait(request: Any) -> RuntimeError | None:
    """Wait for a request and return its error, if it failed."""
    try:
        request.wait()
    except RuntimeError as error:
        return error
    return None


def _copied_outputs(request: Any) -> tuple[Array, ...]:
    # The next run of the request overwrites its memory.
    outputs = [tensor.data for tensor in request.output_tensors]
    return tuple(
        output.astype(np.float32 if output.dtype.kind == "f" else output.dtype, copy=True)
        for output in outputs
    )


def _deviates(expected: Array, actual: Array) -> bool:
    limit = _MAX_DEVIATION * max(1.0, float(np.abs(expected).max()))
    return not bool(np.abs(expected - actual).max() <= limit)  # true for NaN as well


def _shortest_seconds(run: Callable[[], object]) -> float:
    """The duration of the fastest of a few runs, after one that warms up."""
    run()
    times = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)
