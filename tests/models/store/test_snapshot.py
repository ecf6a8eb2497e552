"""One damaged model blinds nobody for the others."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from models.store.aliases import ALIASES
from models.store.manifest import MANIFEST
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


Change = Callable[[Store], object]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda store: publish(store, "pets"), id="a version is published"),
        pytest.param(lambda store: store.promote("pets", 1, "canary"), id="an alias is set"),
        pytest.param(lambda store: damage(store, "pets"), id="aliases are damaged in place"),
        pytest.param(
            lambda store: (store.path("pets", 1) / MANIFEST).unlink(), id="a manifest is lost"
        ),
        pytest.param(
            lambda store: store.path("pets", 1).rename(store.path("zoo", 1).parents[1] / ".gone"),
            id="a version is moved away",
        ),
    ],
)
def test_a_model_that_did_not_change_is_not_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    after_an_hour = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr("models.store.store.time.time_ns", lambda: after_an_hour)
    read: list[str] = []
    aliases = Store.aliases
    monkeypatch.setattr(
        Store, "aliases", lambda self, model: read.append(model) or aliases(self, model)
    )
    before = StoreSnapshot().refreshed(store, ())
    now = before.refreshed(store, ())
    assert read == list(MODELS)
    assert now.models == before.models
    change(store)
    after, fresh = now.refreshed(store, ()), StoreSnapshot().refreshed(store, ())
    assert after.models != before.models
    assert after.get("pets").versions == fresh.get("pets").versions
    if after.get("pets").problem is None:
        assert after.models == fresh.models


def test_a_model_that_has_just_changed_is_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another change may have had the same time."""
    before = StoreSnapshot().refreshed(store, ())
    assert before.get("pets").state is None
    monkeypatch.setattr("models.store.store.time.time_ns", lambda: 0)  # a clock that is behind
    assert StoreSnapshot().refreshed(store, ()).get("pets").state is None


@pytest.mark.parametrize("harm", [Path.unlink, lambda file: file.write_text("{")])
def test_a_manifest_that_is_restored_in_place_is_noticed(
    store: Store, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], object]
) -> None:
    after_an_hour = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr("models.store.store.time.time_ns", lambda: after_an_hour)
    file = store.path("pets", 1) / MANIFEST
    content = file.read_bytes()
    harm(file)
    without = StoreSnapshot().refreshed(store, ())
    assert 1 not in without.get("pets").versions
    file.write_bytes(content)
    assert 1 in without.refreshed(store, ()).get("pets").versions
