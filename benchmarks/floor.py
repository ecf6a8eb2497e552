"""What a picture costs without a service: decoding and computing alone, on one core.

From it follows the bound that a service on this machine cannot pass: its cores, divided by the
core-milliseconds a picture takes. Runs in a process of its own, with Opsin's own decoder and
Opsin's own runtime, so that it follows the settings (OPSIN_PRECISION and the like).

    python -m benchmarks.floor MODEL STORE PICTURES     prints JSON
"""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

HTTP_CORE_MS = 0.05  # what a bare HTTP answer of httptools costs
BATCHES = (1, 2, 4, 8, 16)
_SECONDS = 1.0
_MOST = 200


def cost(work: Callable[[], object]) -> float:
    """Median CPU milliseconds of `work`, run for about a second after a first, untimed time.

    CPU time and not the clock's: it hardly feels what else the machine does.
    """
    work()
    times: list[float] = []
    until = time.monotonic() + _SECONDS
    while not times or (time.monotonic() < until and len(times) < _MOST):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return median(times) * 1000


def main() -> None:
    """Measure on one thread."""
    model, store_home, pictures = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    os.environ["OPSIN_WORKER_THREADS"] = "1"
    os.environ["OMP_NUM_THREADS"] = "1"
    from contracts.settings import Settings  # reads what was just set
    from models.images.decode import decode
    from models.serving.runtime import RuntimeOptions
    from models.store.store import Store
    from workers.inference.loaders import loader, prepare  # TensorFlow

    settings = Settings()
    prepare(settings)
    store = Store(store_home)
    manifest = store.manifest(model, store.resolve(model))
    files = [file.read_bytes() for file in sorted(pictures.glob("*.jpg"))]
    limit = settings.max_image_pixels
    decoding = cost(lambda: [decode(f, network=manifest, max_pixels=limit) for f in files])
    predictor = loader(store, max(BATCHES), RuntimeOptions.of(settings))(model, manifest.version)
    random = np.random.default_rng(8)
    computing = {}
    for size in BATCHES:
        images = random.integers(0, 255, (size, *manifest.input_size, 3), np.uint8)
        computing[size] = cost(partial(predictor.run, "classify", images)) / size
    report = {
        "decode_core_ms": decoding / len(files),
        "compute_core_ms": computing,
        "runtime": predictor.runtime,
    }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
