"""What is loaded, activated and evicted as the aliases of a real store move."""

import math
import os
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from contracts.errors import VersionNotFound
from contracts.garbage import set_aside
from contracts.inference.inference import VectorOperation
from contracts.inference.manifest import Manifest
from contracts.metrics.registry import Metrics
from contracts.queue.heartbeat import HeldModel
from contracts.queue.messages import Pixels, Vector
from models.store.labels import Label
from models.store.store import Store
from tests.models.drafts import DRAFT, write_files
from workers.inference.loaded_models import LoadedModels, SharedBase
from workers.inference.model_manager import (
    FIRST_RETRY_SECONDS,
    GRACE_SECONDS,
    LAST_RETRY_SECONDS,
    METRICS_SECONDS,
    SPARE_BYTES,
    ModelManager,
)


class StubPredictor:
    """A loaded version that computes nothing."""

    labels: tuple[Label, ...] = ()
    operations: tuple[VectorOperation, ...] = ("classify", "embed")
    runtime = "none"
    runtime_reason: str | None = None
    batch_sizes = (1,)
    batch_limit = 16
    batch_threads = 1
    base: SharedBase | None = None

    def __init__(self, manifest: Manifest) -> None:
        self.manifest, self.version = manifest, manifest.version
        self.itself: StubPredictor | None = None

    def run(self, operation: VectorOperation, images: Pixels) -> Vector:
        return np.zeros((len(images), 2), np.float32)

    def finish(self, operation: VectorOperation, base_output: Vector) -> Vector:
        return base_output


class StubBase:
    """A base that computes nothing."""

    def __init__(self, digest: str) -> None:
        self.digest = digest

    def run(self, images: Pixels) -> Vector:
        return np.zeros((len(images), 2), np.float32)


@dataclass
class ManagedPets:
    """A manager of the model `pets`, with its collaborators: the queues and the heartbeat."""

    store: Store
    now: float = 0.0
    waiting: int = 0
    loads: list[int] = field(default_factory=list)
    broken: set[int] = field(default_factory=set)
    bases: dict[str, str] = field(default_factory=dict)
    """The digest of each model's base, once it is in the store and again once it is loaded."""
    undivided: set[str] = field(default_factory=set)
    """Models that turn out to share nothing."""
    reports: list[tuple[HeldModel, ...]] = field(default_factory=list)
    available: float = math.inf

    def __post_init__(self) -> None:
        self.loaded = LoadedModels()
        self.metrics = Metrics()
        self.manager = ModelManager(
            self.store,
            ("pets",),
            self.loaded,
            load=self.load,
            queues=self,
            heartbeat=self,
            clock=lambda: self.now,
            max_trained=2,
            base_of=lambda model, _version: self.bases.get(model),
            available=lambda: self.available,
            metrics=self.metrics,
        )

    def count_waiting(self, model: str, version: int) -> int:
        return self.waiting

    def report(self, *models: HeldModel) -> None:
        self.reports.append(models)

    def load(self, model: str, version: int) -> StubPredictor:
        self.loads.append(version)
        if version in self.broken:
            raise VersionNotFound(f"Version {version} is damaged.")
        predictor = StubPredictor(self.store.manifest(model, version))
        if model in self.bases and model not in self.undivided:
            predictor.base = StubBase(self.bases[model])
        return predictor

    def publish(self, model: str = "pets") -> int:
        with self.store.staging() as folder:
            write_files(folder)
            return self.store.publish(model, folder, DRAFT)

    def after(self, seconds: float) -> list[int]:
        self.now += seconds
        self.manager.reconcile()
        return self.loaded.versions("pets")

    def counted(self, name: str) -> dict[tuple[str, ...], float]:
        """The series of a counter, by their labels."""
        return {
            tuple(field.split("\x1f")[1:]): values[0]
            for field, values in self.metrics.read()["c"].items()
            if field.split("\x1f")[0] == name
        }

    def active(self) -> dict[str, int]:
        return self.loaded.aliases("pets")

    def states(self) -> dict[int | None, str]:
        return {model.version: model.state for model in self.reports[-1]}


@pytest.fixture
def pets(tmp_path: Path) -> ManagedPets:
    pets = ManagedPets(Store(tmp_path / "store"))
    pets.publish()
    pets.publish()
    pets.store.promote("pets", 1)
    pets.manager.reconcile()
    return pets


def test_only_versions_with_an_alias_are_loaded(pets: ManagedPets) -> None:
    assert pets.loaded.versions("pets") == [1]
    assert pets.states() == {1: "ready"}
    assert pets.after(1) == [1]
    assert pets.loads == [1]


def test_new_version_is_loaded_before_the_old_one_is_evicted(pets: ManagedPets) -> None:
    pets.store.promote("pets", 2)
    active: list[dict[str, int]] = []
    load = pets.load

    def watch(model: str, version: int) -> StubPredictor:
        active.append(dict(pets.active()))
        assert pets.loaded.get("pets", 1) is not None
        assert pets.states() == {1: "ready", 2: "loading"}
        return load(model, version)

    pets.manager._load_model = watch
    assert pets.after(0) == [1, 2]
    assert active == [{"champion": 1}], "the old one answers while the new one loads"
    assert pets.active() == {"champion": 2}
    assert pets.after(GRACE_SECONDS - 0.1) == [1, 2], "an API process may still send to it"
    pets.waiting = 1
    assert pets.after(1) == [1, 2], "images wait for it"
    pets.waiting = 0
    assert pets.after(0) == [2]
    assert pets.states() == {2: "ready"}


def test_rollback_within_the_grace_period_loads_nothing(pets: ManagedPets) -> None:
    pets.store.promote("pets", 2)
    pets.after(0)
    pets.store.promote("pets", 1)
    assert pets.after(1) == [1, 2]
    assert pets.active() == {"champion": 1}
    assert pets.loads == [1, 2]
    assert pets.after(1) == [1, 2]
    assert pets.after(GRACE_SECONDS) == [1]


def test_failed_version_leaves_the_previous_one_active(pets: ManagedPets) -> None:
    pets.broken = {2}
    pets.store.promote("pets", 2)
    for _ in range(3):
        assert pets.after(GRACE_SECONDS) == [1]
    assert pets.loads == [1, 2], "it is not tried again and again"
    assert pets.active() == {"champion": 1}
    assert pets.states() == {1: "ready", 2: "unavailable"}
    assert pets.reports[-1][1].reason == "Version 2 is damaged."
    pets.store.promote("pets", 1)
    pets.after(0)
    assert pets.states() == {1: "ready"}
    pets.broken = set()
    pets.store.promote("pets", 2)
    assert pets.after(0) == [1, 2], "promoted again, it is tried again"


def test_a_version_that_failed_to_load_is_tried_again_after_growing_pauses(
    pets: ManagedPets,
) -> None:
    pets.broken = {2}
    pets.store.promote("pets", 2)
    assert pets.after(0) == [1]
    pause = FIRST_RETRY_SECONDS
    for attempts in (1, 2, 3):
        pets.after(pause - 1)
        assert pets.loads.count(2) == attempts
        pets.after(1)
        assert pets.loads.count(2) == attempts + 1
        pause = min(2 * pause, LAST_RETRY_SECONDS)
    assert pets.states() == {1: "ready", 2: "unavailable"}
    pets.broken = set()
    assert pets.after(LAST_RETRY_SECONDS) == [1, 2]
    assert pets.active() == {"champion": 2}
    assert pets.states() == {1: "ready", 2: "ready"}


def test_version_without_alias_is_evicted(pets: ManagedPets) -> None:
    pets.store.drop_alias("pets", "champion")
    pets.after(0)
    assert pets.active() == {}
    assert pets.after(GRACE_SECONDS) == []
    assert pets.states() == {None: "loading"}


def test_an_evicted_version_is_freed_although_it_was_set_aside(pets: ManagedPets) -> None:
    predictor = pets.loaded.get("pets", 1)
    assert isinstance(predictor, StubPredictor)
    predictor.itself = predictor  # only the collector frees it
    version = weakref.ref(predictor)
    del predictor
    set_aside()
    pets.store.drop_alias("pets", "champion")
    pets.after(0)
    assert pets.after(GRACE_SECONDS) == []
    assert version() is None


def test_two_aliases_keep_two_versions_loaded(pets: ManagedPets) -> None:
    pets.store.promote("pets", 2, "canary")
    assert pets.after(0) == [1, 2]
    assert pets.active() == {"champion": 1, "canary": 2}
    assert [one.aliases for one in pets.reports[-1]] == [("champion",), ("canary",)]


def test_unreadable_store_keeps_loaded_versions(pets: ManagedPets, tmp_path: Path) -> None:
    (tmp_path / "store/pets/aliases.json").write_text("{")
    assert pets.after(GRACE_SECONDS) == [1]


def test_reconcile_stops_between_two_models(pets: ManagedPets) -> None:
    stopping = Event()
    stopping.set()
    pets.store.promote("pets", 2)
    pets.manager.reconcile(stopping)
    assert pets.loads == [1]


def test_trained_model_is_loaded_without_being_configured(pets: ManagedPets) -> None:
    """But a published network that is not configured is not loaded."""
    for model in ("made-here", "vgg16"):
        with pets.store.staging() as folder:
            write_files(folder)
            pets.store.promote(model, pets.store.publish(model, folder, DRAFT))
    pets.manager.reconcile()
    assert pets.loaded.versions("made-here") == [1]
    assert pets.loaded.versions("vgg16") == []
    assert ("made-here", "ready") in [(one.name, one.state) for one in pets.reports[-1]]
    pets.store.drop_alias("made-here", "champion")
    pets.store.delete("made-here", 1)
    pets.manager.reconcile()
    pets.now += GRACE_SECONDS
    pets.manager.reconcile()
    assert pets.loaded.versions("made-here") == []
    pets.manager.reconcile()
    assert {one.name for one in pets.reports[-1]} == {"pets"}


def test_a_trained_version_is_not_loaded_without_memory_for_it(pets: ManagedPets) -> None:
    """Otherwise the process would be killed for it, again and again."""
    pets.publish("made-here")
    pets.store.promote("made-here", 1)
    pets.available = SPARE_BYTES - 1
    pets.after(1)
    assert pets.loaded.versions("pets") == [1], "what is configured is loaded all the same"
    assert pets.loaded.versions("made-here") == []
    (state,) = [model for model in pets.reports[-1] if model.name == "made-here"]
    assert state.state == "unavailable"
    assert "Memory" in (state.reason or "")
    pets.available = SPARE_BYTES + 10**6
    pets.after(FIRST_RETRY_SECONDS)
    assert pets.loaded.versions("made-here") == [1]


def test_trained_models_promoted_longest_ago_are_evicted(pets: ManagedPets) -> None:
    for age, model in ((30, "first"), (20, "second"), (10, "third")):
        pets.publish(model)
        pets.store.promote(model, 1)
        moment = 1_000_000_000 - age
        os.utime(pets.store.path(model, 1).parent / "aliases.json", (moment, moment))
    pets.after(1)
    assert [pets.loaded.versions(one) for one in ("first", "second", "third")] == [[], [1], [1]]
    assert pets.loaded.versions("pets") == [1], "what is configured has its place"
    (state,) = [model for model in pets.reports[-1] if model.name == "first"]
    assert (state.state, state.version) == ("unavailable", None)
    assert "OPSIN_TRAINED_MODELS" in (state.reason or "")
    pets.store.promote("first", 1)
    pets.after(1)
    pets.after(2 * GRACE_SECONDS)
    assert [pets.loaded.versions(one) for one in ("first", "second", "third")] == [[1], [], [1]]


def test_models_that_share_a_base_take_little_of_the_limit(pets: ManagedPets) -> None:
    """Of two places, one base takes one, and each further model on it a sixteenth."""
    names = [f"shared-{number:02}" for number in range(18)]
    for age, model in enumerate([*names, "own", "older"]):
        pets.bases |= {model: "the base"} if model in names else {}
        pets.publish(model)
        pets.store.promote(model, 1)
        moment = 1_000_000_000 - age
        os.utime(pets.store.path(model, 1).parent / "aliases.json", (moment, moment))
    pets.after(1)
    pets.after(1)  # the bases of loaded versions count, too
    held = [model for model in (*names, "own", "older") if pets.loaded.versions(model)]
    assert held == names[:17]
    pets.store.promote("own", 1)
    pets.after(1)
    pets.after(2 * GRACE_SECONDS)
    held = [model for model in (*names, "own", "older") if pets.loaded.versions(model)]
    assert held == [names[0], "own"]


def test_a_model_that_shares_nothing_after_all_is_not_loaded_again_and_again(
    pets: ManagedPets,
) -> None:
    """Such as one that is served in int8 since the settings changed."""
    for age, model in enumerate(("first", "second", "third")):
        pets.bases[model] = "the base"
        pets.publish(model)
        pets.store.promote(model, 1)
        moment = 1_000_000_000 - age
        os.utime(pets.store.path(model, 1).parent / "aliases.json", (moment, moment))
    pets.undivided.add("third")
    for _ in range(6):
        pets.after(GRACE_SECONDS)
    assert pets.counted("version_loads_total")["third", "success"] == 1
    assert [name for name in pets.bases if pets.loaded.versions(name)] == ["first", "second"]


def test_loads_and_evictions_are_counted_and_series_go_with_their_version(
    pets: ManagedPets,
) -> None:
    pets.metrics.inc("executions_total", "pets", "1", "classify")
    pets.metrics.inc("executions_total", "pets", "2", "classify")
    pets.store.promote("pets", 2)
    pets.after(0)
    pets.after(GRACE_SECONDS)
    assert pets.counted("version_loads_total") == {("pets", "success"): 2}
    assert pets.counted("version_evictions_total") == {("pets",): 1}
    seconds = pets.metrics.read()["c"]["version_load_seconds\x1fpets"]
    assert seconds[-2] == 2
    pets.after(METRICS_SECONDS - 1)
    assert {labels[1] for labels in pets.counted("executions_total")} == {"1", "2"}
    pets.after(2)
    assert {labels[1] for labels in pets.counted("executions_total")} == {"2"}
    pets.broken = {3}
    pets.publish()
    pets.store.promote("pets", 3)
    pets.after(0)
    assert pets.counted("version_loads_total")["pets", "failure"] == 1


def test_series_of_a_deleted_model_go(pets: ManagedPets) -> None:
    with pets.store.staging() as folder:
        write_files(folder)
        pets.store.promote("mine", pets.store.publish("mine", folder, DRAFT))
    pets.after(0)
    assert ("mine", "success") in pets.counted("version_loads_total")
    pets.store.drop_alias("mine", "champion")
    pets.store.delete("mine", 1)
    pets.after(0)
    pets.after(GRACE_SECONDS)
    pets.after(0)
    assert ("mine", "success") in pets.counted("version_loads_total"), "others still hold it"
    pets.after(METRICS_SECONDS + 1)
    assert pets.counted("version_loads_total") == {("pets", "success"): 1}


def test_a_look_at_many_models_reports_once(pets: ManagedPets) -> None:
    """Each report names every version, and a worker may hold hundreds."""
    for name in ("cats", "dogs"):
        pets.publish(name)
        pets.store.promote(name, 1)
    pets.after(1)
    before = len(pets.reports)
    pets.after(1)
    assert len(pets.reports) - before == 1
    assert {held.name for held in pets.reports[-1]} == {"pets", "cats", "dogs"}
