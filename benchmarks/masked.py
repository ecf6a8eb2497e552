"""Score-CAM and occlusion by OpenVINO, with the strongest maps, against TensorFlow with all maps.

    python -m benchmarks.masked IMAGE --models squeezenet,efficientnet_lite0

Both ways run alternately, and the best processor time of each counts, because other processes
hardly change it.
"""

import argparse
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
from rich.console import Console
from rich.table import Table

from contracts.inference.explanation import Method
from contracts.queue.messages import Pixels
from contracts.settings import Settings
from models.explain.explainer import Explainer
from models.explain.sampling import MAX_MASKS
from models.images.decode import decode
from models.serving.devices import prepare_tensorflow
from models.serving.runtime import RuntimeOptions
from models.store.store import Store

_ALL = 1 << 20
METHODS: tuple[Method, ...] = ("score_cam", "occlusion")


def main() -> None:
    """Print seconds of both ways, the ratio and the largest difference of the heatmaps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("--models", default="squeezenet,efficientnet_lite0")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    settings = Settings()
    prepare_tensorflow(settings.worker_threads)
    table = Table("model", "method", "before, s", "now, s", "ratio", "largest difference")
    for name in arguments.models.split(","):
        store = Store(settings.store_home)
        folder = store.path(name, store.resolve(name))
        before = Explainer(folder, max_batch_size=settings.max_batch_size)
        options = RuntimeOptions.of(settings)
        now = Explainer(folder, max_batch_size=settings.max_batch_size, options=options)
        data = arguments.image.read_bytes()
        image = decode(data, network=now.manifest, max_pixels=settings.max_image_pixels).pixels
        for method in METHODS:
            seconds, difference = compare(before, now, method, image, arguments.rounds)
            ratio = f"{seconds[0] / seconds[1]:.1f}"
            times = (f"{seconds[0]:.2f}", f"{seconds[1]:.2f}")
            table.add_row(name, method, *times, ratio, f"{difference:.2g}")
    Console(width=100).print(table)


def compare(
    before: Explainer, now: Explainer, method: Method, image: Pixels, rounds: int
) -> tuple[tuple[float, float], float]:
    """Seconds of processor time before and now, and how far the heatmaps differ."""
    classes = np.array([now.probabilities(image[np.newaxis])[0].argmax()], np.int32)
    best, grids = [float("inf")] * 2, [np.zeros(0)] * 2
    for number in range(rounds + 1):
        for way, (explainer, masks) in enumerate(((before, _ALL), (now, MAX_MASKS))):
            with patch("models.explain.sampling.MAX_MASKS", masks):
                began = time.process_time()
                grids[way] = explainer.heatmaps(method, image[np.newaxis], classes)
                if number:  # the first round traces and compiles
                    best[way] = min(best[way], time.process_time() - began)
    return (best[0], best[1]), float(np.abs(grids[0] - grids[1]).max())


if __name__ == "__main__":
    main()
