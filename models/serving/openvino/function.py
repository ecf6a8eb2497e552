"""A function that TensorFlow has traced, computed by OpenVINO in float32.

Score-CAM and occlusion run a network some hundred times and need no gradient. OpenVINO takes about
half of TensorFlow's time for that, in the same number format: the results differ by rounding only.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from models.serving.openvino.frontend import import_openvino
from models.serving.runtime import RuntimeUnavailableError

Array = npt.NDArray[Any]

_MAX_DEVIATION = 1e-4  # of the largest result


class RowFunction:
    """A function of some fixed arrays and one whose rows are independent, cut into pieces.

    Args:
        function: A concrete function of TensorFlow with one output, a row for each of its rows.
        rows: The position of the argument with the rows.
        threads: Threads to compute with.
        batch: Rows in a call at most; decides into how many pieces it is cut.

    Raises:
        RuntimeUnavailableError: OpenVINO is not installed or cannot read the function.
    """

    def __init__(self, function: Any, rows: int, *, threads: int, batch: int) -> None:
        try:
            self._openvino = import_openvino()
        except ImportError:
            raise RuntimeUnavailableError("OpenVINO is not installed") from None
        self._rows = rows
        self._pieces = max(1, min(threads, batch // 2))
        properties = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": self._pieces,
        }
        try:
            model = self._openvino.convert_model(function)
            compiled = self._openvino.Core().compile_model(model, "CPU", properties)
        except Exception as error:  # its frontend raises no common class
            raise RuntimeUnavailableError("OpenVINO cannot read its graph") from error
        self._requests = [compiled.create_infer_request() for _ in range(self._pieces)]

    def __call__(self, *arrays: Array) -> Array:
        """The result of every row; the caller owns it. Call from one thread at a time."""
        pieces = np.array_split(arrays[self._rows], min(self._pieces, len(arrays[self._rows])))
        before, after = arrays[: self._rows], arrays[self._rows + 1 :]
        calls = [(*before, np.ascontiguousarray(piece), *after) for piece in pieces]
        requests = self._requests[: len(calls)]
        for request, inputs in zip(requests, calls, strict=True):
            request.start_async([self._openvino.Tensor(array) for array in inputs])
        for request in requests:
            request.wait()
        return np.concatenate([request.output_tensors[0].data.copy() for request in requests])

    def agrees(self, expected: Array, *arrays: Array) -> bool:
        """Whether the result for these arrays is the expected one but for rounding."""
        difference = float(np.abs(self(*arrays) - expected).max())
        return difference <= _MAX_DEVIATION * max(1.0, float(np.abs(expected).max()))
