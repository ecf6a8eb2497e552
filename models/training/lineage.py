"""How many images a version has learned from, in its own training and in those before it."""

from collections.abc import Sequence

from contracts.errors import OpsinError
from contracts.inference.manifest import Manifest
from models.datasets.dataset import Example
from models.datasets.store import DatasetStore
from models.store.store import Store


def count_learned(
    store: Store, library: DatasetStore, version: Manifest, examples: Sequence[Example]
) -> int | None:
    """How many of the images a version has learned from.

    Returns:
        None if that is not known any more: a version that it goes on from, or a dataset, was
        deleted, or images were added to the dataset later.
    """
    learned: set[str] = set()
    try:
        while True:
            origin = version.provenance
            trained_on = (origin.spec or {}).get("dataset_id")
            dataset = library.load(trained_on) if isinstance(trained_on, str) else None
            if dataset is None or dataset.digest != origin.dataset_digest:
                return None
            learned |= {example.sha256 for example in dataset.of("train")}
            parent = origin.parent
            if parent is None or parent.version is None:
                break
            version = store.manifest(parent.model or version.model, parent.version)
    except OpsinError:
        return None
    return sum(example.sha256 in learned for example in examples)
