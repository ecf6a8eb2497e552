"""What is loaded, handed over and dropped as the aliases of a real store move."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from contracts.errors import VersionNotFound
from contracts.inference.inference import Operation
from contracts.inference.manifest import Manifest
from contracts.queue.heartbeat import HeldModel
from contracts.queue.messages import Pixels, Vector
from models.store.labels import Label
from models.store.store import Store
from tests.models.drafts import DRAFT, write_files
from workers.inference.loaded_models import Held
from workers.inference.model_manager import GRACE_SECONDS, Versions


class Loaded:
    """A version in memory that computes nothing."""

    labels: tuple[Label, ...] = ()
    operations: tuple[Operation, ...] = ("classify", "embed")
    runtime = "none"
    runtime_reason: str | None = None
    batch_sizes = (1,)

    def __init__(self, manifest: Manifest) -> None:
        self.manifest, self.version = manifest, manifest.version

    def run(self, operation: Operation, images: Pixels) -> Vector:
        return np.zeros((len(images), 2), np.float32)


@dataclass
class Bench:
    """Versions of the model `pets`, with everything around them in reach."""

    store: Store
    now: float = 0.0
    waits: int = 0
    loads: list[int] = field(default_factory=list)
    broken: set[int] = field(default_factory=set)
    told: list[tuple[HeldModel, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.held = Held()
        self.versions = Versions(
            self.store,
            ("pets",),
            self.held,
            load=self.load,
            waiting=lambda model, version: self.waits,
            tell=lambda *models: self.told.append(models),
            clock=lambda: self.now,
            most_trained=2,
        )

    def load(self, model: str, version: int) -> Loaded:
        self.loads.append(version)
        if version in self.broken:
            raise VersionNotFound(f"Version {version} was found damaged.")
        return Loaded(self.store.manifest(model, version))

    def publish(self, model: str = "pets") -> int:
        with self.store.staging() as folder:
            write_files(folder)
            return self.store.publish(model, folder, DRAFT)

    def after(self, seconds: float) -> list[int]:
        self.now += seconds
        self.versions.look()
        return self.held.versions("pets")

    def standing(self) -> dict[str, int]:
        return self.held.aliases("pets")

    def states(self) -> dict[int | None, str]:
        return {one.version: one.state for one in self.told[-1]}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(Store(tmp_path / "store"))
    bench.publish()
    bench.publish()
    bench.store.promote("pets", 1)
    bench.versions.look()
    return bench


def test_only_what_has_an_alias_is_held(bench: Bench) -> None:
    assert bench.held.versions("pets") == [1]
    assert bench.states() == {1: "ready"}
    assert bench.after(1) == [1]
    assert bench.loads == [1]


def test_the_new_one_is_loaded_before_the_old_one_goes(bench: Bench) -> None:
    bench.store.promote("pets", 2)
    seen: list[dict[str, int]] = []
    load = bench.load

    def watch(model: str, version: int) -> Loaded:
        seen.append(dict(bench.standing()))
        assert bench.held.get("pets", 1) is not None
        assert bench.states() == {1: "ready", 2: "loading"}
        return load(model, version)

    bench.versions._load = watch
    assert bench.after(0) == [1, 2]
    assert seen == [{"champion": 1}], "the old one answers while the new one loads"
    assert bench.standing() == {"champion": 2}
    assert bench.after(GRACE_SECONDS - 0.1) == [1, 2], "an API process may still send to it"
    bench.waits = 1
    assert bench.after(1) == [1, 2], "images wait for it"
    bench.waits = 0
    assert bench.after(0) == [2]
    assert bench.states() == {2: "ready"}


def test_a_roll_back_in_time_loads_nothing(bench: Bench) -> None:
    bench.store.promote("pets", 2)
    bench.after(0)
    bench.store.promote("pets", 1)
    assert bench.after(1) == [1, 2]
    assert bench.standing() == {"champion": 1}
    assert bench.loads == [1, 2]
    assert bench.after(1) == [1, 2]
    assert bench.after(GRACE_SECONDS) == [1]


def test_a_version_that_cannot_be_loaded_changes_nothing(bench: Bench) -> None:
    bench.broken = {2}
    bench.store.promote("pets", 2)
    for _ in range(3):
        assert bench.after(GRACE_SECONDS) == [1]
    assert bench.loads == [1, 2], "it is not tried again and again"
    assert bench.standing() == {"champion": 1}
    assert bench.states() == {1: "ready", 2: "unavailable"}
    assert bench.told[-1][1].reason == "Version 2 was found damaged."
    bench.store.promote("pets", 1)
    bench.after(0)
    assert bench.states() == {1: "ready"}
    bench.broken = set()
    bench.store.promote("pets", 2)
    assert bench.after(0) == [1, 2], "promoted again, it is tried again"


def test_without_an_alias_nothing_is_left(bench: Bench) -> None:
    bench.store.drop_alias("pets", "champion")
    bench.after(0)
    assert bench.standing() == {}
    assert bench.after(GRACE_SECONDS) == []
    assert bench.states() == {None: "loading"}


def test_two_aliases_two_versions(bench: Bench) -> None:
    bench.store.promote("pets", 2, "canary")
    assert bench.after(0) == [1, 2]
    assert bench.standing() == {"champion": 1, "canary": 2}
    assert [one.aliases for one in bench.told[-1]] == [("champion",), ("canary",)]


def test_a_store_that_cannot_be_read_keeps_what_is_held(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "store/pets/aliases.json").write_text("{")
    assert bench.after(GRACE_SECONDS) == [1]


def test_it_stops_between_two_models(bench: Bench) -> None:
    stopping = Event()
    stopping.set()
    bench.store.promote("pets", 2)
    bench.versions.look(stopping)
    assert bench.loads == [1]


def test_what_was_trained_is_served_without_being_configured(bench: Bench) -> None:
    """And a published network that nobody asked for is not."""
    for model in ("made-here", "vgg16"):
        with bench.store.staging() as folder:
            write_files(folder)
            bench.store.promote(model, bench.store.publish(model, folder, DRAFT))
    bench.versions.look()
    assert bench.held.versions("made-here") == [1]
    assert bench.held.versions("vgg16") == []
    assert ("made-here", "ready") in [(one.name, one.state) for one in bench.told[-1]]
    bench.store.drop_alias("made-here", "champion")
    bench.store.delete("made-here", 1)
    bench.versions.look()
    bench.now += GRACE_SECONDS
    bench.versions.look()
    assert bench.held.versions("made-here") == []
    bench.versions.look()
    assert {one.name for one in bench.told[-1]} == {"pets"}


def test_trained_models_make_room_for_those_promoted_later(bench: Bench) -> None:
    for age, model in ((30, "first"), (20, "second"), (10, "third")):
        bench.publish(model)
        bench.store.promote(model, 1)
        moment = 1_000_000_000 - age
        os.utime(bench.store.path(model, 1).parent / "aliases.json", (moment, moment))
    bench.after(1)
    assert [bench.held.versions(one) for one in ("first", "second", "third")] == [[], [1], [1]]
    assert bench.held.versions("pets") == [1], "what is configured has its place"
    (told,) = [one for one in bench.told[-1] if one.name == "first"]
    assert (told.state, told.version) == ("unavailable", None)
    assert "OPSIN_TRAINED_MODELS" in (told.reason or "")
    bench.store.promote("first", 1)
    bench.after(1)
    bench.after(2 * GRACE_SECONDS)
    assert [bench.held.versions(one) for one in ("first", "second", "third")] == [[1], [], [1]]
