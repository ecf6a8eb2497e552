"""Data and requests of the training tests; no fixtures, as the process of `killed.py` uses them."""

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
    """Noisy images with more red or more blue: 20 for training, 8 for validation, 8 for testing."""
    rng = np.random.default_rng(8)
    examples = []
    for label, channel in (("blue", 2), ("red", 0)):
        for split, count in COUNTS.items():
            for number in range(count):
                pixels = rng.integers(0, 200, (SIDE, SIDE, 3))
                pixels[..., channel] += 55
                path = folder / f"{label}-{split}-{number}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(path)
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                examples.append(Example(path, label, split, digest))
    digest = hashlib.sha256("".join(example.sha256 for example in examples).encode()).hexdigest()
    return Dataset("colors", f"sha256:{digest}", ("blue", "red"), tuple(examples))


def small_request(**fields: Any) -> TrainingRequest:
    """A training that takes a second or two."""
    defaults = {"dataset_id": "ds_1", "model": "colors", "network": "cnn_small", "batch_size": 8}
    return TrainingRequest(**defaults | {"image_size": SIDE} | fields)


def weight_entry(file: str, digest: str) -> WeightEntry:
    source = {"kind": "directory", "file": file, "digest": f"sha256:{digest}", "format": "npz"}
    return WeightEntry.model_validate(
        {"content": "for tests", "licence": "Apache-2.0", "sources": [source]}
    )


class RecordingWork:
    """Records progress, metrics and checks; can stop the training at a given check."""

    job_id = "job_1"
    attempt = 1

    def __init__(self, folder: Path, *, stop_after: int | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.request: dict[str, Any] = {}
        self.folder = folder
        self.stop_after = stop_after
        self.checks = 0
        self.reports: list[Progress] = []
        self.rows: list[dict[str, Any]] = []

    def progress(self, progress: Progress) -> None:
        self.reports.append(progress)

    def metrics(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def artifact(self, name: str, media_type: str, content: bytes) -> None:
        raise AssertionError("the trainer makes no artifacts")

    def check(self) -> None:
        self.checks += 1
        if self.stop_after is not None and self.checks > self.stop_after:
            raise WorkStoppedError
