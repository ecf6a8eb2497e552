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
        store.promote(model, add(store, model, subjects))
    return store


def add(store: Store, model: str, subjects: list[str] | None) -> int:
    with store.staging() as folder:
        write_files(folder)
        provenance = Provenance(spec={"subjects": subjects})
        return store.publish(model, folder, DRAFT.model_copy(update={"provenance": provenance}))


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


def test_a_version_that_was_never_champion_does_not_become_it(store: Store) -> None:
    add(store, "door", ["sub_bob", "sub_eve"])  # 4: worse than the champion, for example
    add(store, "door", None)
    erase(store, "sub_ada")
    assert (store.versions("door"), store.aliases("door")) == ([2, 4, 5], {"champion": 2})
    erase(store, "sub_bob")
    assert (store.versions("door"), store.aliases("door")) == ([5], {})


def test_a_version_that_was_rolled_back_does_not_become_champion_again(store: Store) -> None:
    assert store.former_champions("door") == [2, 1]
    store.promote("door", 2)  # 3 is rolled back
    assert store.former_champions("door") == [1]
    store.drop_alias("door", "champion")
    assert store.former_champions("door") == [2, 1]
    store.promote("door", add(store, "door", ["sub_ada", "sub_eve"]))
    erase(store, "sub_eve")  # in 2, 3 and 4
    assert store.aliases("door") == {"champion": 1}


def test_an_alias_that_somebody_moves_meanwhile_stays_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fourth = add(store, "door", ["sub_eve"])
    former = store.former_champions

    def moved(model: str) -> list[int]:
        versions = former(model)
        store.promote(model, fourth)
        return versions

    monkeypatch.setattr(store, "former_champions", moved)
    erase(store, "sub_ada")
    assert (store.versions("door"), store.aliases("door")) == ([2, 4], {"champion": 4})


def test_a_model_without_versions_is_no_longer_served(store: Store) -> None:
    assert len(erase(store, "sub_bob")) == 3
    assert store.versions("door") == []
    with pytest.raises((VersionNotFound, ModelNotFound)):
        store.resolve("door")
    assert erase(store, "sub_bob") == []


def test_damaged_versions_of_the_subject_are_deleted_too(store: Store, tmp_path: Path) -> None:
    for version in (1, 2):
        (store.path("door", version) / "labels.json").write_bytes(b"changed")
        assert store.verify("door", version)
    cut, of_others = tmp_path / "door" / "3" / "manifest.json", add(store, "door", ["sub_eve"])
    cut.write_bytes(cut.read_bytes()[:-100])
    (tmp_path / "door" / str(of_others) / "manifest.json").write_bytes(b"{")
    assert erase(store, "sub_ada") == [TrainedVersion("door", 1), TrainedVersion("door", 3)]
    assert (store.quarantined("door"), store.numbers("door")) == ([2], [of_others])
    assert add(store, "door", None) == of_others + 1, "numbers are not used again"
