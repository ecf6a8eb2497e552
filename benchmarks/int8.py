"""Quantizes the champion with Opsin's own job, to measure the speed of int8.

The images are labeled with the network's own predictions, so the measured accuracy means nothing;
the speed does not depend on it. The home gets its own store with both versions.

    python -m benchmarks.int8 MODEL STORE IMAGES HOME
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from contracts.inference.manifest import CHAMPION
from contracts.jobs import Progress
from contracts.settings import Settings
from models.datasets.store import DatasetStore
from models.export.quantization import run
from models.images.decode import decode
from models.serving.predictor import load_version
from models.store.store import Store


class UnattendedWork:
    """A `Work` that ignores progress and is never cancelled."""

    attempt = 1

    def __init__(self, request: dict[str, Any], folder: Path) -> None:
        self.job_id, self.request, self.folder = "job_benchmark", request, folder

    def progress(self, progress: Progress) -> None: ...

    def metrics(self, row: dict[str, Any]) -> None: ...

    def artifact(self, name: str, media_type: str, content: bytes) -> None: ...

    def check(self) -> None: ...


def main() -> None:
    """Copy the version, sort the images by its predictions, quantize and promote."""
    model, store_home, images, home = sys.argv[1], *map(Path, sys.argv[2:5])
    settings = Settings(home=home)
    version = Store(store_home).resolve(model, CHAMPION)
    shutil.copytree(store_home / model / str(version), settings.store_home / model / str(version))
    store = Store(settings.store_home)
    store.promote(model, version)
    sorted_home = home / "sorted"
    shutil.rmtree(sorted_home, ignore_errors=True)
    _sort(store, model, images, sorted_home, settings)
    dataset = DatasetStore.of(settings).create("bench", sorted_home).info.id
    request = {"model": model, "version": version, "dataset_id": dataset, "max_accuracy_loss": 1}
    result = run(UnattendedWork(request, home), settings)
    store.promote(model, result["version"])


def _sort(store: Store, model: str, images: Path, into: Path, settings: Settings) -> None:
    predictor = load_version(store, model, max_batch_size=1)
    for number, file in enumerate(sorted(images.glob("*.jpg"))):
        image = decode(
            file.read_bytes(), network=predictor.manifest, max_pixels=settings.max_image_pixels
        )
        best = int(predictor.run("classify", image.pixels[np.newaxis]).argmax())
        folder = into / ("train" if number % 3 else "test") / predictor.labels[best].id
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, folder / file.name)


if __name__ == "__main__":
    main()
