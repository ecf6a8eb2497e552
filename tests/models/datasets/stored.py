"""Where a dataset keeps its files."""

from pathlib import Path

from models.datasets.admission import content_path
from models.datasets.store import DatasetStore


def image_path(store: DatasetStore, dataset_id: str, sha256: str) -> Path:
    """Of the image with that hash."""
    return content_path(store._folder(dataset_id), sha256)
