"""The cost of an image without a service: decoding and computing alone, on one core.

It gives an upper bound for a service on this machine: the number of cores divided by the
core-milliseconds per image. Runs in its own process with Opsin's decoder and runtime, so that it
follows the settings (OPSIN_PRECISION and others).

    python -m benchmarks.comparison.floor MODEL STORE IMAGES     prints JSON
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

HTTP_CORE_MS = 0.05  # cost of a minimal HTTP response with httptools
BATCHES = (1, 2, 4, 8, 16)
_SECONDS = 1.0
_MAX_RUNS = 200


def cost(work: Callable[[], object]) -> float:
    """Median CPU milliseconds of `work`, run for about a second after a warm-up.

    CPU time, because other load on the machine hardly affects it.
    """
    work()
    times: list[float] = []
    until = time.monotonic() + _SECONDS
    while not times or (time.monotonic() < until and len(times) < _MAX_RUNS):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return median(times) * 1000


def main() -> None:
    """Measure on one thread."""
    model, store_home, image_folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    os.environ["OPSIN_WORKER_THREADS"] = "1"
    os.environ["OMP_NUM_THREADS"] = "1"
    from contracts.settings import Settings  # reads the variables set above
    from models.images.decode import decode
    from models.serving.runtime import RuntimeOptions
    from models.store.store import Store
    from workers.inference.loaders import VersionLoader, prepare_devices  # TensorFlow

    settings = Settings()
    prepare_devices(settings)
    store = Store(store_home)
    manifest = store.manifest(model, store.resolve(model))
    files = [file.read_bytes() for file in sorted(image_folder.glob("*.jpg"))]
    limit = settings.max_image_pixels
    decoding = cost(lambda: [decode(f, network=manifest, max_pixels=limit) for f in files])
    loader = VersionLoader(store, max(BATCHES), RuntimeOptions.of(settings))
    predictor = loader(model, manifest.version)
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
