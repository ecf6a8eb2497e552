"""The heatmaps of all methods for some images on one sheet, as in docs/explanation/heatmaps.md.

python -m benchmarks.explain.contact_sheet OUT.jpg IMAGE ... --model squeezenet
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from contracts.inference.explanation import METHODS
from contracts.queue.messages import Pixels
from contracts.settings import Settings
from models.explain.explainer import Explainer
from models.images.decode import decode
from models.rendering.contact_sheet import Tile, contact_sheet
from models.serving.devices import prepare_tensorflow
from models.store.labels import read_labels
from models.store.snapshot import ServedVersion
from models.store.store import Store

SIDE = 112
ALPHA = 0.5


def overlay(image: Pixels, grid: np.ndarray) -> Pixels:
    """A heatmap in color over the image, (SIDE, SIDE, 3)."""
    fine = cv2.resize(grid, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    colors = cv2.applyColorMap((fine * 255).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small * (1 - ALPHA) + colors * ALPHA, np.uint8)


def row(explainer: Explainer, labels: list[str], path: Path) -> list[Tile]:
    """An image and the heatmaps of its most probable class."""
    image = decode(
        path.read_bytes(),
        network=ServedVersion(explainer.manifest, ()),
        max_pixels=Settings().max_image_pixels,
    ).pixels
    probabilities = explainer.probabilities(image[np.newaxis])[0]
    top = int(probabilities.argmax())
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    tiles = [Tile(small, f"{labels[top]} {probabilities[top]:.0%}")]
    for method in METHODS:
        grid = explainer.heatmaps(method, image[np.newaxis], np.array([top], np.int32))[0]
        tiles.append(Tile(overlay(image, grid), method, blank=not grid.any()))
    return tiles


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--model", default="squeezenet")
    arguments = parser.parse_args()
    settings = Settings()
    prepare_tensorflow(settings.worker_threads)
    store = Store(settings.store_home)
    folder = store.path(arguments.model, store.resolve(arguments.model))
    explainer = Explainer(folder, max_batch_size=16)
    labels = [label.text for label in read_labels(folder)]
    tiles = [tile for path in arguments.images for tile in row(explainer, labels, path)]
    contact_sheet(tiles, columns=len(METHODS) + 1).save(arguments.out, quality=88)


if __name__ == "__main__":
    main()
