"""Which version answers, given heartbeats and a real store."""

from pathlib import Path

import pytest

from contracts.errors import ModelNotFound, ModelNotReady, NoWorker, OpsinError, VersionNotFound
from contracts.inference.inference import Operation
from contracts.queue.heartbeat import HeldModel, WorkerBeat
from models.store.snapshot import StoreSnapshot
from models.store.store import Store
from service.queue.version_routing import VersionRouter
from tests.models.drafts import DRAFT, write_files

BOTH: tuple[Operation, ...] = ("classify", "embed")


def worker(name: str, *models: HeldModel) -> WorkerBeat:
    return WorkerBeat(id=name, host="h", pid=1, release="0", started_at=0, beat_at=0, models=models)


def loaded(version: int, *aliases: str, operations: tuple[Operation, ...] = BOTH) -> HeldModel:
    return HeldModel(
        name="pets", version=version, state="ready", operations=operations, aliases=aliases
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """`pets` with versions 1, 2 and 3; 2 is champion."""
    store = Store(tmp_path / "store")
    for _ in range(3):
        with store.staging() as folder:
            write_files(folder)
            (folder / "labels.json").write_text('[{"id": "a", "label": "cat"}]')
            store.publish("pets", folder, DRAFT)
    store.promote("pets", 2)
    return store


def router(
    store: Store, *workers: WorkerBeat, before: StoreSnapshot | None = None
) -> VersionRouter:
    versions = {(m.name, m.version or 0) for w in workers for m in w.models if m.operations}
    return VersionRouter(("pets",), (before or StoreSnapshot()).refreshed(store, versions), workers)


def chosen(router: VersionRouter, version: str | None = None) -> int | None:
    served = router.choose("pets", version, "classify")
    return served and served.manifest.version


def refused(router: VersionRouter, version: str | None, name: str = "pets") -> OpsinError:
    assert router.choose(name, version, "classify") is None
    return router.not_available_error(name, version, "classify")


def test_new_version_answers_once_one_worker_has_loaded_it(store: Store) -> None:
    old, new = worker("w1", loaded(1, "champion")), worker("w2", loaded(2, "champion"))
    assert chosen(router(store, old)) == 1, "the one before answers until then"
    assert chosen(router(store, old, new)) == 2
    assert chosen(router(store, new), "champion") == 2
    info = router(store, old).model_info("pets")
    assert info.state == "ready"
    assert "version 1 answers" in (info.reason or "")


def test_version_of_another_alias_is_not_used(store: Store) -> None:
    canary = worker("w1", loaded(3, "canary"))
    assert isinstance(refused(router(store, canary), None), ModelNotReady)


def test_number_selects_that_version_or_fails(store: Store) -> None:
    routes = router(store, worker("w1", loaded(2, "champion")))
    assert chosen(routes, "2") == 2
    not_loaded = refused(routes, "3")
    assert isinstance(not_loaded, ModelNotReady)
    assert "alias" in not_loaded.detail
    assert isinstance(refused(routes, "9"), VersionNotFound)
    assert isinstance(refused(routes, "canary"), VersionNotFound)
    assert isinstance(refused(routes, None, "nonesuch"), ModelNotFound)
    assert isinstance(refused(router(store), None), NoWorker)


def test_deleted_version_answers_until_the_next_is_loaded(store: Store) -> None:
    only = worker("w1", loaded(1, "champion"))
    before = router(store, only)
    store.delete("pets", 1)
    after = router(store, only, before=before.store)
    assert chosen(after) == 1
    assert isinstance(refused(after, "1"), VersionNotFound)
    assert after.model_info("pets").versions == [2, 3]


def test_base_without_classifier_is_not_ready_to_classify(store: Store) -> None:
    routes = router(store, worker("w1", loaded(2, "champion", operations=("embed",))))
    assert isinstance(refused(routes, None), ModelNotReady)
    assert routes.choose("pets", None, "embed") is not None


def test_damaged_champion_is_reported(store: Store) -> None:
    (store.path("pets", 2) / "model.keras").write_bytes(b"damaged")
    assert store.verify("pets", 2)
    failed = HeldModel(name="pets", version=2, state="unavailable", reason="It is in quarantine.")
    alone = router(store, worker("w1", failed))
    assert "quarantine" in refused(alone, None).detail
    assert alone.model_info("pets").state == "unavailable"
    active = router(store, worker("w1", loaded(1, "champion"), failed))
    assert chosen(active) == 1
    assert "quarantine" in (active.model_info("pets").reason or "")


def test_version_is_not_served_once_all_workers_failed(store: Store) -> None:
    failed = HeldModel(name="pets", version=2, state="unavailable", reason="no")
    loading = HeldModel(name="pets", version=2, state="loading")
    assert router(store, worker("w1", failed)).will_be_served("pets", 2) is False
    assert (
        router(store, worker("w1", failed), worker("w2", loading)).will_be_served("pets", 2) is None
    )
    assert router(store, worker("w1", loaded(2))).will_be_served("pets", 2) is True
    assert router(store).will_be_served("pets", 2) is False


def test_a_promotion_waits_for_every_worker_that_will_load_the_version(store: Store) -> None:
    old, new = worker("w1", loaded(1, "champion")), worker("w2", loaded(2, "champion"))
    failed = HeldModel(name="pets", version=2, state="unavailable", reason="damaged")
    loading = HeldModel(name="pets", version=2, state="loading")
    assert not router(store, new).is_awaited("pets", 2)
    assert router(store, new, old).is_awaited("pets", 2)
    assert router(store, new, worker("w3", loading)).is_awaited("pets", 2)
    assert router(store, new, worker("w3")).is_awaited("pets", 2), "it does not know the model yet"
    assert not router(store, new, worker("w3", loaded(1), failed)).is_awaited("pets", 2)
    full = HeldModel(name="pets", state="unavailable", reason="Memory")
    assert not router(store, new, worker("w3", full)).is_awaited("pets", 2)


def test_a_trained_champion_loads_while_a_worker_still_loads_others(store: Store) -> None:
    others = HeldModel(name="vgg16", state="loading", operations=())
    waiting = router(store, worker("w1", others)).model_info("pets")
    assert waiting.state == "loading"
    ready = HeldModel(name="vgg16", version=1, state="ready", operations=BOTH)
    info = VersionRouter(
        ("vgg16",), StoreSnapshot().refreshed(store, {("pets", 2)}), [worker("w1", ready)]
    ).model_info("pets")
    assert info.state == "unavailable"
    assert "OPSIN_TRAINED_MODELS" in (info.reason or "")


def test_what_is_told_of_a_model_is_made_once(store: Store) -> None:
    """Lists of hundreds of models may be asked for many times a second."""
    known = router(store, worker("w1", loaded(2)))
    assert known.model_info("pets") is known.model_info("pets")
    assert known.model_json("pets") is known.model_json("pets")
    assert known.names() is known.names()


def test_one_model_is_found_without_looking_at_the_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = router(store, worker("w1", loaded(2)))
    with pytest.raises(ModelNotFound, match=r"Did you mean pets\? Known: "):
        known.find("pet")
    monkeypatch.setattr(VersionRouter, "names", None)
    assert known.find("pets").name == "pets"
    assert known.find("vgg16").versions == [], "in the catalog, not in the store"
