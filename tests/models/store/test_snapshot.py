"""One damaged model blinds nobody for the others."""

import logging
from pathlib import Path

import pytest

from models.store.aliases import ALIASES
from models.store.snapshot import StoreSnapshot
from models.store.store import Store
from service.queue.version_routing import VersionRouter
from tests.models.drafts import DRAFT, write_files

MODELS = ("pets", "zoo")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two models, each with a champion."""
    store = Store(tmp_path / "store")
    for model in MODELS:
        publish(store, model)
        store.promote(model, 1)
    return store


def publish(store: Store, model: str) -> None:
    with store.staging() as folder:
        write_files(folder)
        (folder / "labels.json").write_text('[{"id": "a", "label": "cat"}]')
        store.publish(model, folder, DRAFT)


def damage(store: Store, model: str) -> Path:
    path = store.path(model, 1).parent / ALIASES
    path.write_text("{")
    return path


def test_a_change_is_seen_beside_a_model_with_damaged_aliases(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    before = StoreSnapshot().refreshed(store, ())
    damage(store, "zoo")
    publish(store, "pets")
    store.promote("pets", 2)
    with caplog.at_level(logging.ERROR):
        now = before.refreshed(store, ())
        again = now.refreshed(store, ())
    assert again.get("pets").aliases == {"champion": 2}
    assert again.get("zoo").aliases == {"champion": 1}, "its earlier state"
    assert "aliases.json is damaged" in (again.get("zoo").problem or "")
    assert len(caplog.records) == 1, "logged once"


def test_a_start_beside_a_damaged_model_sees_the_others(store: Store) -> None:
    path = damage(store, "zoo")
    now = StoreSnapshot().refreshed(store, {("pets", 1)})
    assert (now.get("pets").aliases, now.get("pets").problem) == ({"champion": 1}, None)
    assert set(now.served) == {("pets", 1)}
    assert list(now.get("zoo").versions) == [1]
    reason = VersionRouter((), now, ()).model_info("zoo").reason
    assert reason is not None
    assert reason.startswith("Its aliases.json is damaged.")
    path.write_text('{"aliases": {"champion": 1}, "highest": 1}')
    assert now.refreshed(store, ()).get("zoo").problem is None


def test_damaged_labels_take_only_their_version_away(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    (store.path("zoo", 1) / "labels.json").write_text("[")
    loaded = {(model, 1) for model in MODELS}
    with caplog.at_level(logging.ERROR):
        now = StoreSnapshot().refreshed(store, loaded).refreshed(store, loaded)
    assert set(now.served) == {("pets", 1)}
    assert len(caplog.records) == 1
