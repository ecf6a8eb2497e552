from pathlib import Path

import pytest

from contracts.errors import ModelNotFound, VersionNotFound
from contracts.inference.manifest import Provenance
from models.faces.provenance import TrainedVersion, erase, versions_trained_on
from models.store.store import Store
from tests.models.drafts import DRAFT, write_files


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """`door`: 1 of ada and bob, 2 of bob and eve, 3 of all; `pets` without subjects."""
    store = Store(tmp_path)
    rows = [
        ("door", ["sub_ada", "sub_bob"]),
        ("door", ["sub_bob", "sub_eve"]),
        ("door", ["sub_ada", "sub_bob", "sub_eve"]),
        ("pets", None),
    ]
    for model, subjects in rows:
        with store.staging() as folder:
            write_files(folder)
            provenance = Provenance(spec={"subjects": subjects})
            draft = DRAFT.model_copy(update={"provenance": provenance})
            store.promote(model, store.publish(model, folder, draft))
    return store


def test_finds_the_versions_of_one_subject(store: Store) -> None:
    assert versions_trained_on(store, "sub_ada") == [
        TrainedVersion("door", 1),
        TrainedVersion("door", 3),
    ]
    assert versions_trained_on(store, "sub_nobody") == []


def test_the_champion_falls_back_to_a_version_without_the_subject(store: Store) -> None:
    store.promote("door", 3, "canary")
    assert erase(store, "sub_ada") == [TrainedVersion("door", 1), TrainedVersion("door", 3)]
    assert store.versions("door") == [2]
    assert store.aliases("door") == {"champion": 2}
    assert store.versions("pets") == [1]
    assert not list(store.path("door", 2).parent.glob("[13]"))


def test_a_model_without_versions_is_no_longer_served(store: Store) -> None:
    assert len(erase(store, "sub_bob")) == 3
    assert store.versions("door") == []
    with pytest.raises((VersionNotFound, ModelNotFound)):
        store.resolve("door")
    assert erase(store, "sub_bob") == []
