"""Time per image by runtime, precision and batch size, and the peak performance of the machine.

    python -m benchmarks.serving.runtimes STORE [MODEL ...] --threads 2 --rounds 15

All runtimes take turns in each round, so that other load affects all of them. The table shows
medians and the fastest round. The roofline is measured in the same run: multiply-adds of a large
matrix product and bytes of a large copy.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from contracts.inference.manifest import Endpoint
from models.serving.openvino.frontend import import_openvino
from models.serving.openvino.runtime import OpenVinoRuntime
from models.serving.runtime import (
    Precision,
    Runtime,
    RuntimeOptions,
    RuntimeUnavailableError,
)
from models.serving.selection import tensorflow_runtime
from models.store.manifest import read_manifest
from models.store.store import Store

SIZES = (1, 2, 4, 8, 16)
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
BASELINE = "tensorflow-float32"


def runtimes(folder: Path, threads: int) -> list[Runtime]:
    """All runtimes that can run a version here, the reference first."""
    options = RuntimeOptions("tensorflow", "float32", threads)
    manifest = read_manifest(folder)
    available: list[Runtime] = [tensorflow_runtime(folder, options)]
    for precision in PRECISIONS:
        try:
            runtime = OpenVinoRuntime(folder, manifest, precision, options)
        except RuntimeUnavailableError as unavailable:
            print(f"openvino-{precision}: {unavailable}")
            continue
        runtime.parallelize()
        available.append(runtime)
    return available


def measure(
    folder: Path, candidates: list[Runtime], sizes: tuple[int, ...], rounds: int
) -> dict[tuple[str, int], list[float]]:
    """Milliseconds per image of each round, by runtime and batch size."""
    endpoint, size = _endpoint(folder), read_manifest(folder).input_size
    times: dict[tuple[str, int], list[float]] = {}
    for batch in sizes:
        images = np.random.default_rng(8).integers(0, 256, (batch, *size, 3), np.uint8)
        for number in range(rounds + 1):
            for runtime in candidates:
                took = _seconds(lambda: runtime.run(endpoint, images))  # noqa: B023  called at once
                if number:  # the first round is a warm-up
                    each = 1000 * took / batch
                    times.setdefault((runtime.name, batch), []).append(each)
    return times


def roofline(threads: int) -> dict[str, float]:
    """Billions of multiply-adds per second by precision, and gigabytes per second."""
    openvino = import_openvino()
    ops, side = openvino.opset13, 2048
    peaks = {}
    for hint in ("f32", "bf16"):
        left = ops.parameter([side, side], np.float32)
        right = ops.constant(np.random.default_rng(1).random((side, side), np.float32))
        model = openvino.Model([ops.matmul(left, right, False, False)], [left])
        config = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
        compiled = openvino.Core().compile_model(model, "CPU", config)
        given = np.ones((side, side), np.float32)
        best = min(_seconds(lambda: compiled(given)) for _ in range(8))  # noqa: B023
        peaks[f"Gmac/s {hint}"] = side**3 / best / 1e9
    source = np.ones(64 * 1024 * 1024, np.uint8)
    target = np.empty_like(source)
    best = min(_seconds(lambda: np.copyto(target, source)) for _ in range(8))
    return peaks | {"GB/s": 2 * source.nbytes / best / 1e9}


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _endpoint(folder: Path) -> Endpoint:
    return "serve" if "serve" in read_manifest(folder).endpoints else "features"


def _table(model: str, times: dict[tuple[str, int], list[float]]) -> Table:
    table = Table("runtime", "batch", "ms/image", "fastest", "speedup", title=model, min_width=70)
    for (name, batch), each in times.items():
        reference = times[BASELINE, batch]
        # Ratios round by round, because other load affects both in a round.
        ratio = statistics.median(a / b for a, b in zip(reference, each, strict=True))
        table.add_row(
            name,
            str(batch),
            f"{statistics.median(each):.2f}",
            f"{min(each):.2f}",
            f"{ratio:.2f} (fastest {min(reference) / min(each):.2f})",
        )
    return table


def main() -> None:
    """Print a table for each model, and the roofline."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=int, nargs="+", default=list(SIZES))
    arguments = parser.parse_args()
    store, console = Store(arguments.store), Console(width=100)
    console.print({name: round(value, 1) for name, value in roofline(arguments.threads).items()})
    for model in arguments.models or store.models():
        folder = store.path(model, store.resolve(model))
        candidates = runtimes(folder, arguments.threads)
        sizes = tuple(arguments.batches)
        console.print(_table(model, measure(folder, candidates, sizes, arguments.rounds)))


if __name__ == "__main__":
    main()
