"""A version of an erased person is refused wherever it could be used, until it is deleted."""

from collections.abc import Callable
from pathlib import Path

import pytest

from contracts.errors import OpsinError, Unavailable, VersionNotFound
from contracts.faces.erased_ids import FILE, ErasedIds
from contracts.inference.manifest import CHAMPION, Provenance
from models.faces import provenance
from models.store.derived import derived_path
from models.store.downloads import download
from models.store.manifest import MANIFEST
from models.store.snapshot import StoreSnapshot
from models.store.store import Store
from tests.models.drafts import DRAFT, write_files

ADA, BOB = "sub_0123456789abcdefghij", "sub_0123456789ABCDEFGHIJ"

USES: list[Callable[[Store], object]] = [
    lambda store: store.path("door", 2),
    lambda store: store.manifest("door", 2),
    lambda store: store.resolve("door"),
    lambda store: store.resolve("door", 2),
    lambda store: store.promote("door", 2, "candidate"),
    lambda store: download(store, "door", 2, "keras"),
    lambda store: derived_path(store, "door", 2, "onnx"),
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Of a home; the champion was trained on Ada, and the version before it on Bob."""
    store = Store(tmp_path / "store")
    for subject in (BOB, ADA):
        with store.staging() as folder:
            write_files(folder)
            (folder / "labels.json").write_text('[{"id": "a", "label": "cat"}]')
            origin = Provenance(spec={"subjects": [subject]})
            version = store.publish("door", folder, DRAFT.model_copy(update={"provenance": origin}))
        store.promote("door", version)
    return store


@pytest.mark.parametrize("use", USES)
def test_it_is_refused(store: Store, tmp_path: Path, use: Callable[[Store], object]) -> None:
    use(store)
    (tmp_path / FILE).write_text(f"{ADA}\n")
    with pytest.raises(VersionNotFound, match="is being deleted") as refused:
        use(store)
    _tells_nothing_of_people(refused.value)
    assert [one.version for one in store.manifests("door")] == [1]
    assert store.path("door", 1).name == "1"


@pytest.mark.parametrize("use", USES)
def test_it_is_refused_while_nobody_can_read_who_was_erased(
    store: Store, tmp_path: Path, use: Callable[[Store], object]
) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(Unavailable, match="at the moment") as refused:
        use(store)
    _tells_nothing_of_people(refused.value)


def _tells_nothing_of_people(error: OpsinError) -> None:
    """Any key reads it, also one that may not know who is enrolled."""
    assert not any(word in error.detail for word in ("erased", "person", "people", ADA))


def test_it_is_refused_while_nobody_can_read_whose_it_is(store: Store, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(f"{ADA}\n")
    manifest = store.path("door", 1) / MANIFEST
    manifest.unlink()
    manifest.write_text("{")
    with pytest.raises(VersionNotFound, match="damaged"):
        store.path("door", 1)


def test_a_version_that_is_loaded_already_answers_no_more(store: Store, tmp_path: Path) -> None:
    loaded = [("door", 1), ("door", 2)]
    before = StoreSnapshot().refreshed(store, loaded)
    assert {*before.served} == {*loaded}
    (tmp_path / FILE).write_text(f"{ADA}\n")
    after = before.refreshed(store, loaded)
    assert {*after.served} == {("door", 1)}
    assert {*after.get("door").versions} == {1}


def test_a_model_that_has_not_changed_for_long_is_read_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.store.store._SETTLED_NS", 0)
    with store.staging() as folder:
        write_files(folder)
        store.publish("pets", folder, DRAFT)
    before = StoreSnapshot().refreshed(store, [])
    assert before.get("door").is_in(store.state("door", [1, 2]))
    (tmp_path / FILE).write_text(f"{ADA}\n")
    after = before.refreshed(store, [])
    assert {*after.get("door").versions} == {1}
    assert after.get("pets") is before.get("pets"), "a model trained on nobody is not read again"


def test_the_rest_of_a_list_that_has_grown_is_read(tmp_path: Path) -> None:
    """It is read after each erasure, and nothing is ever removed from it."""
    path, listed = tmp_path / FILE, ErasedIds(tmp_path)
    assert listed.ids() == set()
    path.write_text(f"{ADA}\n")
    assert listed.ids() == {ADA}
    with path.open("r+") as file:
        file.write("x" * len(ADA))  # what is not read again
        file.seek(0, 2)
        file.write(f"\n{BOB[:9]}")
        file.flush()
        assert BOB not in listed.ids()
        file.write(BOB[9:])
        file.flush()
        assert listed.ids() >= {ADA, BOB}, "also without an end of the line"
        file.write("\n")
    path.with_name("other").write_text(f"{BOB}\n")
    path.with_name("other").replace(path)
    assert listed.ids() == {BOB}
    path.unlink()
    assert listed.ids() == set()


def test_an_erasure_finds_and_deletes_it(store: Store, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(f"{ADA}\n")
    assert provenance.subjects_of(store) == {ADA, BOB}
    assert [one.version for one in provenance.erase(store, ADA)] == [2]
    assert (store.versions("door"), store.aliases("door")) == ([1], {CHAMPION: 1})
    (tmp_path / FILE).write_text(f"{ADA}\n{BOB}\n")
    assert [one.version for one in provenance.erase(store, BOB)] == [1]
    assert store.models() == []


def test_a_refused_version_does_not_become_champion(store: Store, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(f"{ADA}\n{BOB}\n")
    provenance.erase(store, ADA)
    assert (store.versions("door"), store.aliases("door")) == ([1], {})
