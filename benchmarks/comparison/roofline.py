"""The peak performance of this machine: operations per second by type, and memory bandwidth.

Milliseconds mean little on another machine; shares of these peaks do. The peaks are those of large
matrix products in oneDNN, through OpenVINO, on all cores: what a network could reach if it
consisted only of matrix products. Runs in its own process and prints JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openvino as ov
from openvino import opset13 as ops

_SIDE = 2048
_REPEATS = 5
_BYTES = 128 * 1024 * 1024
_THREADS = 2


def main() -> None:
    """Measure and print."""
    peaks = {
        "float32": _matmul(_product(), "f32"),
        "bfloat16": _matmul(_product(), "bf16"),
        "int8": _matmul(_quantized_product(), "f32"),
    }
    report = {"gflops": {kind: 2 * gmacs for kind, gmacs in peaks.items()}, "gb_s": _bandwidth()}
    json.dump(report, sys.stdout)


def _product() -> ov.Model:
    left = ops.parameter([_SIDE, _SIDE], np.float32)
    return ov.Model([ops.matmul(left, _weights(), False, False)], [left])


def _quantized_product() -> ov.Model:
    """A product of two quantized operands, which OpenVINO turns into an int8 product."""
    left = ops.parameter([_SIDE, _SIDE], np.float32)

    def quantized(node: ov.Node, levels: int) -> ov.Node:
        ends = [np.float32(-1), np.float32(1)]
        return ops.fake_quantize(node, *ends, *ends, levels)

    product = ops.matmul(quantized(left, 256), quantized(_weights(), 255), False, False)
    return ov.Model([product], [left])


def _weights() -> ov.Node:
    return ops.constant(np.random.default_rng(8).random((_SIDE, _SIDE), np.float32))


def _matmul(model: ov.Model, precision: str) -> float:
    """Billions of multiply-adds per second."""
    core = ov.Core()
    compiled = core.compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    )
    request = compiled.create_infer_request()
    given = np.random.default_rng(9).random((_SIDE, _SIDE), np.float32)
    seconds = _best(lambda: request.infer([given], share_inputs=True))
    return _SIDE**3 / seconds / 1e9


def _bandwidth() -> float:
    """Gigabytes per second read and written by a copy on all cores."""
    sources = [np.ones(_BYTES // 8) for _ in range(_THREADS)]
    targets = [np.zeros_like(source) for source in sources]
    with ThreadPoolExecutor(_THREADS) as pool:

        def copy() -> None:
            list(pool.map(np.copyto, targets, sources))

        return 2 * _THREADS * _BYTES / _best(copy) / 1e9


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of a few runs."""
    work()
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    main()
