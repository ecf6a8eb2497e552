"""What the tests train with; no fixtures, for the killed process of `killed.py` uses it too."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from contracts.jobs import Progress
from contracts.training.trainings import TrainingRequest
from contracts.work import WorkStoppedError
from models.datasets.dataset import Dataset, Example, Split
from models.weights.sources import WeightEntry

COUNTS: dict[Split, int] = {"train": 10, "validation": 4, "test": 4}
SIDE = 32


def colors(folder: Path) -> Dataset:
    """Noisy pictures, more red or more blue: 20 to learn from, 8 to judge by, 8 to test on."""
    chance = np.random.default_rng(8)
    examples = []
    for label, channel in (("blue", 2), ("red", 0)):
        for split, count in COUNTS.items():
            for number in range(count):
                pixels = chance.integers(0, 200, (SIDE, SIDE, 3))
                pixels[..., channel] += 55
                path = folder / f"{label}-{split}-{number}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(path)
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                examples.append(Example(path, label, split, digest))
    digest = hashlib.sha256("".join(one.sha256 for one in examples).encode()).hexdigest()
    return Dataset("colors", f"sha256:{digest}", ("blue", "red"), tuple(examples))


def asked(**more: Any) -> TrainingRequest:
    """A request that is done in a second or two."""
    least = {"dataset_id": "ds_1", "model": "colors", "network": "cnn_small", "batch_size": 8}
    return TrainingRequest(**least | {"image_size": SIDE} | more)


def weight_entry(file: str, digest: str) -> WeightEntry:
    source = {"kind": "directory", "file": file, "digest": f"sha256:{digest}", "format": "npz"}
    return WeightEntry.model_validate(
        {"content": "for tests", "licence": "Apache-2.0", "sources": [source]}
    )


class RecordingWork:
    """Keeps what it is told, and stops the work after so many steps if it is to."""

    job_id = "job_1"
    attempt = 1

    def __init__(self, folder: Path, *, stop_after: int | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.request: dict[str, Any] = {}
        self.folder = folder
        self.stop_after = stop_after
        self.checks = 0
        self.told: list[Progress] = []
        self.rows: list[dict[str, Any]] = []

    def progress(self, progress: Progress) -> None:
        self.told.append(progress)

    def metrics(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def artifact(self, name: str, media_type: str, content: bytes) -> None:
        raise AssertionError("a training makes no files by itself")

    def check(self) -> None:
        self.checks += 1
        if self.stop_after is not None and self.checks > self.stop_after:
            raise WorkStoppedError
