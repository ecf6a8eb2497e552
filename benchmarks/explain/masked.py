"""The slow explanations as they are, against TensorFlow with all maps, patches and steps.

    python -m benchmarks.explain.masked IMAGE --models squeezenet,efficientnet_lite0

Both ways run alternately, and the best processor time of each counts, because other processes
hardly change it. The last row is the sheet of all eight methods, whose other four take little.
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
from models.explain import sampling
from models.explain.explainer import Explainer
from models.images.decode import decode
from models.serving.devices import prepare_tensorflow
from models.serving.runtime import RuntimeOptions
from models.store.store import Store

_ALL = 1 << 20
METHODS: tuple[Method, ...] = ("score_cam", "occlusion", "smooth_grad", "integrated_gradients")
FAST: tuple[Method, ...] = ("grad_cam", "hires_cam", "grad_cam_plus_plus", "layer_cam")
BEFORE = {"MAX_MASKS": _ALL, "OCCLUSION_STRIDE": 1}


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
        total = np.zeros(2)
        for method in (*FAST, *METHODS):
            seconds, difference = compare(before, now, method, image, arguments.rounds)
            total += seconds
            if method in METHODS:
                table.add_row(name, method, *_cells(*seconds), f"{difference:.2g}")
        table.add_row(name, "all eight", *_cells(*total), "")
    Console(width=100).print(table)


def _cells(before: float, now: float) -> tuple[str, str, str]:
    return f"{before:.2f}", f"{now:.2f}", f"{before / now:.1f}"


def compare(
    before: Explainer, now: Explainer, method: Method, image: Pixels, rounds: int
) -> tuple[tuple[float, float], float]:
    """Seconds of processor time before and now, and how far the heatmaps differ."""
    classes = np.array([now.probabilities(image[np.newaxis])[0].argmax()], np.int32)
    now_values = {name: getattr(sampling, name) for name in BEFORE}
    best, grids = [float("inf")] * 2, [np.zeros(0, np.float32)] * 2
    for number in range(rounds + 1):
        for way, (explainer, changes) in enumerate(((before, BEFORE), (now, now_values))):
            with patch.multiple("models.explain.sampling", **changes):
                began = time.process_time()
                grids[way] = explainer.heatmaps(method, image[np.newaxis], classes)
                if number:  # the first round traces and compiles
                    best[way] = min(best[way], time.process_time() - began)
    return (best[0], best[1]), float(np.abs(grids[0] - grids[1]).max())


if __name__ == "__main__":
    main()
