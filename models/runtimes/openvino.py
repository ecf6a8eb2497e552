"""A version run by OpenVINO on the processor: the same SavedModel, 2 to 4 times as quick.

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

from contracts.manifest import Endpoint, Manifest
from contracts.messages import Pixels
from models.batches import Outputs
from models.runtimes.openvino_import import import_openvino
from models.runtimes.runtime import Precision, RuntimeOptions, RuntimeUnavailableError
from models.runtimes.signature_view import signature_view

INT8_FOLDER = "openvino_int8"
SERVED: tuple[Endpoint, ...] = ("serve", "features")
# Less is not worth a second copy of the compiled weights.
_WORTH = 1.1
# Pictures in a piece: twos and fours cost the same by 5 %, ones a tenth more.
_PIECE = 2
_ROUNDS = 3
# The bytes of a graph's weights above which no second copy is tried.
_STRAY = 0.05
_LARGE = 64 * 1024 * 1024


class OpenVinoRuntime:
    """A SavedModel, or the int8 graph beside it, compiled by OpenVINO for this processor.

    Args:
        folder: The version's.
        manifest: Says which endpoints it has.
        precision: To compute in. int8 needs a quantized version.
        options: Threads.

    Raises:
        RuntimeUnavailableError: OpenVINO is not installed, cannot read the graph, or the
            processor or the version lacks the precision.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, precision: Precision, options: RuntimeOptions
    ) -> None:
        try:
            self._openvino = import_openvino()
        except ImportError:
            raise RuntimeUnavailableError("OpenVINO is not installed") from None
        self.name = f"openvino-{precision}"
        self._core = self._openvino.Core()
        self._threads = options.threads
        self._folder = folder
        self._has_bfloat16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bfloat16" and not self._has_bfloat16:
            raise RuntimeUnavailableError("this processor does not compute in bfloat16")
        if precision == "int8" and not (folder / INT8_FOLDER).is_dir():
            raise RuntimeUnavailableError("this version is not quantized to int8")
        self._precision = precision
        variables = folder / "saved_model" / "variables"
        self._is_large = sum(file.stat().st_size for file in variables.iterdir()) > _LARGE
        self._alone: dict[Endpoint, Any] = {}
        self._shared: dict[Endpoint, _Pieces] = {}
        self._is_tuned = False
        for endpoint in SERVED:
            if endpoint in manifest.endpoints:
                self._alone[endpoint] = self._compiled(endpoint, 1).create_infer_request()

    def run(self, endpoint: Endpoint, images: Pixels) -> Outputs:
        """See `Runtime`."""
        pieces = self._shared.get(endpoint)
        if pieces and len(images) > 1:
            return self._side_by_side(pieces, images)
        return self._together(endpoint, images)

    def tune(self, endpoint: Endpoint, sizes: Sequence[int]) -> None:
        """Measure whether a batch is quicker in pieces; keep that if it is."""
        if sizes[-1] < _PIECE * self._threads or self._threads == 1 or self._is_large:
            return
        if self._is_tuned and not self._shared:
            return
        pieces = _Pieces(self._compiled(endpoint, self._threads))
        shape = (2 * _PIECE * self._threads, *self._input_size(endpoint), 3)
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        # The gate has judged the whole; pieces are another graph, and must say the same.
        expected, found = self._together(endpoint, images), self._side_by_side(pieces, images)
        if np.abs(expected - found).max() > _STRAY * max(1.0, float(np.abs(expected).max())):
            return
        if self._is_tuned or self._is_quicker(pieces, endpoint, images):
            self._shared[endpoint] = pieces
        self._is_tuned = True

    def _is_quicker(self, pieces: "_Pieces", endpoint: Endpoint, images: Pixels) -> bool:
        whole = _quickest(partial(self._together, endpoint, images))
        return whole > _WORTH * _quickest(partial(self._side_by_side, pieces, images))

    def _input_size(self, endpoint: Endpoint) -> tuple[int, int]:
        shape = self._alone[endpoint].get_compiled_model().inputs[0].partial_shape
        return shape[1].get_length(), shape[2].get_length()

    def _together(self, endpoint: Endpoint, images: Pixels) -> Outputs:
        request = self._alone[endpoint]
        request.infer([self._tensor(images)])
        return _copied(request)

    def _side_by_side(self, pieces: "_Pieces", images: Pixels) -> Outputs:
        # The tensors show memory of ours, and so must outlive their requests' runs.
        tensors = [self._tensor(images[at : at + _PIECE]) for at in range(0, len(images), _PIECE)]
        requests = pieces.requests(len(tensors))
        for request, tensor in zip(requests, tensors, strict=True):
            request.start_async([tensor])
        for request in requests:
            request.wait()
        return np.concatenate([_copied(request) for request in requests])

    def _tensor(self, images: Pixels) -> Any:
        return self._openvino.Tensor(np.ascontiguousarray(images), shared_memory=True)

    def _compiled(self, endpoint: Endpoint, streams: int) -> Any:
        bfloat16 = self._has_bfloat16 and self._precision != "float32"
        told: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": streams,
        }
        try:
            return self._core.compile_model(self._read(endpoint), "CPU", told)
        except (RuntimeError, ValueError) as error:
            raise RuntimeUnavailableError("OpenVINO cannot read its graph") from error

    def _read(self, endpoint: Endpoint) -> Any:
        if self._precision == "int8":
            return self._core.read_model(self._folder / INT8_FOLDER / f"{endpoint}.xml")
        with signature_view(self._folder / "saved_model", endpoint) as view:
            return self._core.read_model(view)


class _Pieces:
    """A graph compiled with a stream for each thread, and the requests that run on them."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._requests: list[Any] = []

    def requests(self, count: int) -> list[Any]:
        """As many as there are pieces: whichever thread is free takes the next."""
        while len(self._requests) < count:
            self._requests.append(self._compiled.create_infer_request())
        return self._requests[:count]


def _copied(request: Any) -> Outputs:
    # The request's own memory is written over by its next run.
    answer: Outputs = request.get_output_tensor(0).data.astype(np.float32, copy=True)
    return answer


def _quickest(run: Callable[[], object]) -> float:
    """Seconds of the quickest of a few runs, after one that only warms."""
    run()
    times = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)
