"""One graph compiled by OpenVINO: for all threads together, and for each thread by itself.

All threads together compute a lone image. Small operators spread badly over threads, and threads
that share an image wait for each other, which costs most when other processes need a core. So a
batch is cut into pieces, each of which one thread computes; and while several batches run at once,
the thread that asks for one computes it alone. The pieces have fixed sizes, for which the graph is
compiled: one for any size takes a tenth longer. Large graphs gain nothing by that, and would be in
memory several times.

Compiled graphs are not cached on disk: compiling VGG16 takes 0.5 s and reading its cached 553 MB
takes 0.6 s; for SqueezeNet it is 0.18 s and 0.07 s.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from models.serving.openvino.last_product import split_before_last_product
from models.serving.runtime import MOST_BATCHES, Precision, RuntimeUnavailableError

Array = npt.NDArray[Any]

_PIECES = (1, 2)  # images: twos, threes and fours cost the same, ones up to a twentieth more
_MAX_DEVIATION = 0.05
LARGE = 32 * 1024 * 1024
"""Bytes of weights above which there is no second copy.

Threads that compute by themselves read all weights for each of their smaller batches. VGG16, whose
base has 56 MiB of them, answered 6% fewer images that way in one run, and as many in another.
"""


def is_large(folder: Path) -> bool:
    """Whether a version's weights are so large that a second copy gains nothing."""
    variables = folder / "saved_model" / "variables"
    return sum(file.stat().st_size for file in variables.iterdir()) > LARGE


class OpenVinoGraph:
    """Runs batches: arrays of n rows in, arrays of n rows out, in the order of the graph's.

    Several threads may use it at once; see `parallel_batches`.

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
        self._whole = self._compiled(1).create_infer_request()
        self._using_whole, self._using_tail = Lock(), Lock()
        self._parallel: _Parallel | None = None
        self._running, self._counting = 0, Lock()

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the images, which are the first input."""
        shape = self._whole.get_compiled_model().inputs[0].partial_shape
        return shape[1].get_length(), shape[2].get_length()

    def run(self, *arrays: Array) -> tuple[Array, ...]:
        """The outputs for arrays with equally many rows, at least one.

        Returns:
            Copies that belong to the caller; floating-point ones are float32.
        """
        rows = {len(array) for array in arrays}
        if len(rows) != 1:  # OpenVINO would read beyond the shorter one
            raise ValueError(f"inputs must have one length, not {sorted(rows)}")
        with self._counted() as running:
            return self._finished(self._trunk(arrays, rows.pop(), running))

    @property
    def parallel_batches(self) -> int:
        """How many batches should run at once to keep all threads busy."""
        return 1 if self._parallel is None else min(self._threads, MOST_BATCHES)

    def forget_source(self) -> None:
        """Free what the graph was read from; it cannot be compiled again."""
        self._read = _forgotten

    def release_buffers(self) -> None:
        """Free what a run of the whole graph leaves behind for the next one of its size."""
        with self._using_whole:
            self._whole.get_compiled_model().release_memory()

    def parallelize(self, *more: Callable[[int], Array]) -> None:
        """Compile it for each thread by itself, unless it is large or there is one thread.

        Args:
            more: Make the inputs other than the images, with so many rows.
        """
        if self._threads == 1 or self._large:
            return
        try:
            parallel = _Parallel({rows: self._compiled(self._threads, rows) for rows in _PIECES})
            lone = self._compiled(1, 1).create_infer_request()
        except RuntimeUnavailableError:
            return  # it does not let the number of rows be fixed
        size = max(_PIECES) * self._threads + 1  # so that it ends in a piece of one
        images = np.random.default_rng(0).integers(0, 256, (size, *self.input_size, 3), np.uint8)
        arrays = (images, *(make(size) for make in more))
        first = [array[:1] for array in arrays]
        # The parity gate has checked the whole; these are other graphs and must agree with it.
        expected = self._run_whole(arrays)
        for outputs in (self._in_pieces(parallel.run, arrays), self._infer(lone, first)):
            if any(
                _deviates(one[: len(other)], other)
                for one, other in zip(expected, outputs, strict=True)
            ):
                return
        # Each stream's first run of a graph takes longer.
        parallel.run([self._tensors(first)] * self._threads)
        with self._using_whole:
            self._whole = lone  # larger batches are computed in pieces from now on
        self._parallel = parallel

    @contextmanager
    def _counted(self) -> Iterator[int]:
        """How many runs there are, this one included."""
        with self._counting:
            self._running += 1
            running = self._running
        try:
            yield running
        finally:
            with self._counting:
                self._running -= 1

    def _trunk(self, arrays: Sequence[Array], rows: int, running: int) -> tuple[Array, ...]:
        """The outputs before `_tail`."""
        if self._parallel is None or rows == running == 1:
            return self._run_whole(arrays)
        is_alone = running == 1 or self._threads > MOST_BATCHES
        return self._in_pieces(self._parallel.run if is_alone else self._parallel.run_here, arrays)

    def _run_whole(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        with self._using_whole:
            return self._infer(self._whole, arrays)

    def _infer(self, request: Any, arrays: Sequence[Array]) -> tuple[Array, ...]:
        request.infer(self._tensors(arrays))
        return _copied_outputs(request)

    def _in_pieces(
        self, run: Callable[[list[list[Any]]], list[tuple[Array, ...]]], arrays: Sequence[Array]
    ) -> tuple[Array, ...]:
        """The outputs, computed in pieces of two rows, and of one if they are odd."""
        size = max(_PIECES)
        # The tensors share our memory and must outlive the runs of their requests.
        tensors = [
            self._tensors(array[start : start + size] for array in arrays)
            for start in range(0, len(arrays[0]), size)
        ]
        outputs = run(tensors)
        return tuple(np.concatenate(parts) for parts in zip(*outputs, strict=True))

    def _finished(self, outputs: tuple[Array, ...]) -> tuple[Array, ...]:
        if self._tail is None:
            return outputs
        tensors = self._tensors(outputs)
        with self._using_tail:
            self._tail.infer(tensors)
            return _copied_outputs(self._tail)

    def _tensors(self, arrays: Iterable[Array]) -> list[Any]:
        return [self._tensor(array) for array in arrays]

    def _tensor(self, rows: Array) -> Any:
        rows = np.ascontiguousarray(rows)
        if not rows.flags.writeable:  # OpenVINO shares no array that it could not write to
            rows = rows.copy()
        return self._openvino.Tensor(rows, shared_memory=True)

    def _compiled(self, streams: int, rows: int | None = None) -> Any:
        """Compile the graph; in bfloat16 without its last product, which `_tail` computes.

        Args:
            streams: How many threads are to compute by themselves.
            rows: Of each input; None for any number.
        """
        try:
            model = self._read()
            parts = split_before_last_product(self._openvino, model) if self._bfloat16 else None
            if parts is None:
                precision = "bf16" if self._bfloat16 else "f32"
                return self._compile(_with_rows(model, rows), precision, streams)
            trunk, tail = parts
            # By one thread: it takes microseconds, and others would only be woken for it.
            self._tail = self._tail or self._compile(tail, "f32", 1, 1).create_infer_request()
            return self._compile(_with_rows(trunk, rows), "bf16", streams)
        except (RuntimeError, ValueError) as error:
            raise RuntimeUnavailableError("OpenVINO cannot read its graph") from error

    def _compile(self, model: Any, precision: str, streams: int, threads: int | None = None) -> Any:
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads or self._threads,
            "NUM_STREAMS": streams,
        }
        return self._core.compile_model(model, "CPU", properties)


def _forgotten() -> Any:
    raise RuntimeError("the graph's source is forgotten")


class _Parallel:
    """A graph compiled with a stream for each thread, and its infer requests.

    Args:
        compiled: The graph, by the number of rows that it was compiled for.
    """

    def __init__(self, compiled: Mapping[int, Any]) -> None:
        self._compiled = compiled
        # Infer requests; `append` and `pop` are atomic.
        self._free: dict[int, list[Any]] = {rows: [] for rows in compiled}

    def run_here(self, pieces: Sequence[Sequence[Any]]) -> list[tuple[Array, ...]]:
        """The outputs for each piece's tensors, computed by the calling thread and no other."""
        outputs = []
        for tensors in pieces:
            request = self._request(tensors)
            request.infer(tensors)
            outputs.append(_copied_outputs(request))
            self._free[_rows(tensors)].append(request)
        return outputs

    def run(self, pieces: Sequence[Sequence[Any]]) -> list[tuple[Array, ...]]:
        """As `run_here`, but the next free thread takes the next piece."""
        requests = [self._request(tensors) for tensors in pieces]
        for request, tensors in zip(requests, pieces, strict=True):
            request.start_async(tensors)
        # All must have ended before anything is raised: they read the caller's memory.
        failures = [error for error in map(_wait, requests) if error is not None]
        outputs = [] if failures else [_copied_outputs(request) for request in requests]
        for request, tensors in zip(requests, pieces, strict=True):
            self._free[_rows(tensors)].append(request)
        if failures:
            raise failures[0]
        return outputs

    def _request(self, tensors: Sequence[Any]) -> Any:
        rows = _rows(tensors)
        try:
            return self._free[rows].pop()
        except IndexError:
            return self._compiled[rows].create_infer_request()


def _rows(tensors: Sequence[Any]) -> int:
    rows: int = tensors[0].shape[0]
    return rows


def _with_rows(model: Any, rows: int | None) -> Any:
    """The graph, whose inputs from now on have so many rows; None for any number."""
    if rows is not None:
        model.reshape({node: [rows, *list(node.partial_shape)[1:]] for node in model.inputs})
    return model


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
    expected = expected[: len(actual)]
    limit = _MAX_DEVIATION * max(1.0, float(np.abs(expected).max()))
    return not bool(np.abs(expected - actual).max() <= limit)  # true for NaN as well
