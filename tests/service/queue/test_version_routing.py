"""Which version answers, from beats and a real store."""

from pathlib import Path

import pytest

from contracts.errors import ModelNotFound, ModelNotReady, NoWorker, OpsinError, VersionNotFound
from contracts.inference.inference import Operation
from contracts.queue.heartbeat import HeldModel, WorkerBeat
from models.store.snapshot import Shelves
from models.store.store import Store
from service.queue.version_routing import Choice
from tests.models.drafts import DRAFT, write_files

BOTH: tuple[Operation, ...] = ("classify", "embed")


def worker(name: str, *held: HeldModel) -> WorkerBeat:
    return WorkerBeat(id=name, host="h", pid=1, release="0", started_at=0, beat_at=0, models=held)


def holds(version: int, *aliases: str, operations: tuple[Operation, ...] = BOTH) -> HeldModel:
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


def choice(store: Store, *workers: WorkerBeat, before: Shelves | None = None) -> Choice:
    held = {(m.name, m.version or 0) for w in workers for m in w.models if m.operations}
    return Choice(("pets",), (before or Shelves()).renewed(store, held), workers)


def chosen(choice: Choice, version: str | None = None) -> int | None:
    found = choice.choose("pets", version, "classify")
    return found and found.manifest.version


def refused(choice: Choice, version: str | None, name: str = "pets") -> OpsinError:
    assert choice.choose(name, version, "classify") is None
    return choice.refusal(name, version, "classify")


def test_the_new_version_as_soon_as_one_worker_holds_it(store: Store) -> None:
    old, new = worker("w1", holds(1, "champion")), worker("w2", holds(2, "champion"))
    assert chosen(choice(store, old)) == 1, "the one before answers until then"
    assert chosen(choice(store, old, new)) == 2
    assert chosen(choice(store, new), "champion") == 2
    info = choice(store, old).info("pets")
    assert info.state == "ready"
    assert "version 1 answers" in (info.reason or "")


def test_another_aliass_version_does_not_step_in(store: Store) -> None:
    canary = worker("w1", holds(3, "canary"))
    assert isinstance(refused(choice(store, canary), None), ModelNotReady)


def test_a_number_is_that_version_or_an_error(store: Store) -> None:
    seen = choice(store, worker("w1", holds(2, "champion")))
    assert chosen(seen, "2") == 2
    not_held = refused(seen, "3")
    assert isinstance(not_held, ModelNotReady)
    assert "alias" in not_held.detail
    assert isinstance(refused(seen, "9"), VersionNotFound)
    assert isinstance(refused(seen, "canary"), VersionNotFound)
    assert isinstance(refused(seen, None, "nonesuch"), ModelNotFound)
    assert isinstance(refused(choice(store), None), NoWorker)


def test_a_version_deleted_while_it_still_stands_in_answers_on(store: Store) -> None:
    beats = worker("w1", holds(1, "champion"))
    before = choice(store, beats)
    store.delete("pets", 1)
    after = choice(store, beats, before=before.shelves)
    assert chosen(after) == 1
    assert isinstance(refused(after, "1"), VersionNotFound)
    assert after.info("pets").versions == [2, 3]


def test_a_base_alone_does_not_classify(store: Store) -> None:
    seen = choice(store, worker("w1", holds(2, "champion", operations=("embed",))))
    assert isinstance(refused(seen, None), ModelNotReady)
    assert seen.choose("pets", None, "embed") is not None


def test_a_damaged_champion_is_said(store: Store) -> None:
    (store.path("pets", 2) / "model.keras").write_bytes(b"damaged")
    assert store.verify("pets", 2)
    failed = HeldModel(name="pets", version=2, state="unavailable", reason="It is in quarantine.")
    alone = choice(store, worker("w1", failed))
    assert "quarantine" in refused(alone, None).detail
    assert alone.info("pets").state == "unavailable"
    standing = choice(store, worker("w1", holds(1, "champion"), failed))
    assert chosen(standing) == 1
    assert "quarantine" in (standing.info("pets").reason or "")


def test_waiting_ends_when_all_have_failed(store: Store) -> None:
    failed = HeldModel(name="pets", version=2, state="unavailable", reason="no")
    loading = HeldModel(name="pets", version=2, state="loading")
    assert choice(store, worker("w1", failed)).fate("pets", 2) is False
    assert choice(store, worker("w1", failed), worker("w2", loading)).fate("pets", 2) is None
    assert choice(store, worker("w1", holds(2))).fate("pets", 2) is True
    assert choice(store).fate("pets", 2) is False
