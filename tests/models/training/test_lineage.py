"""What a version has learned from, and what those have that it goes on from."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contracts.inference.manifest import Manifest, ParentRecord, Provenance
from contracts.settings import Settings
from models.datasets.store import DatasetStore
from models.store.store import Store
from models.training.lineage import count_learned
from tests.models.drafts import DRAFT, write_files


@pytest.fixture
def library(tmp_path: Path) -> DatasetStore:
    library = DatasetStore.of(Settings(home=tmp_path / "home", decode_threads=1))
    for seed, name in enumerate(("old", "new")):
        rng = np.random.default_rng(seed)
        for label in ("cat", "dog"):
            folder = tmp_path / name / label
            folder.mkdir(parents=True)
            for number in range(10):
                pixels = rng.integers(0, 255, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
        library.create(name, tmp_path / name, dataset_id=f"ds_{name}")
    return library


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def trained(store: Store, library: DatasetStore, dataset: str, parent: int | None) -> Manifest:
    record = ParentRecord(use="from_version", model="pets", version=parent, layers=1)
    provenance = Provenance(
        dataset_digest=library.load(dataset).digest,
        parent=record if parent else None,
        spec={"dataset_id": dataset},
    )
    with store.staging() as folder:
        write_files(folder)
        draft = DRAFT.model_copy(update={"provenance": provenance})
        return store.manifest("pets", store.publish("pets", folder, draft))


def test_what_a_parent_has_learned_counts(store: Store, library: DatasetStore) -> None:
    parent = trained(store, library, "ds_old", None)
    child = trained(store, library, "ds_new", parent.version)
    old, new = library.load("ds_old"), library.load("ds_new")
    for version, dataset in ((parent, old), (child, old), (child, new)):
        counts = (
            count_learned(store, library, version, dataset.examples),
            count_learned(store, library, version, dataset.of("test")),
        )
        assert counts == (len(dataset.of("train")), 0)
    assert count_learned(store, library, parent, new.examples) == 0

    store.delete("pets", parent.version)
    assert count_learned(store, library, child, old.examples) is None
    library.delete("ds_new")
    assert count_learned(store, library, child, new.examples) is None
