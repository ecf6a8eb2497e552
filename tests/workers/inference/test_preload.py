"""What the first heatmap needs is loaded once nobody asks for anything, and only where it fits."""

from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest

from models.serving.predictor import VersionPredictor
from models.serving.runtime import RuntimeOptions
from models.store.store import Store
from tests.models import keras_warnings
from tests.models.explain.versions import published, tiny
from workers.inference.loaded_models import Held
from workers.inference.preload import (
    IDLE_SECONDS,
    RETRY_SECONDS,
    Preload,
    Preloading,
    available_bytes,
)

pytestmark = keras_warnings.ignored

GIB = 1024.0**3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    published(root, tiny())
    return root


class Worker:
    """A worker's state, to be set by a test."""

    def __init__(self, root: Path, wanted: Preload = "auto") -> None:
        self.predictor = VersionPredictor(
            root / "tiny" / "1", max_batch_size=4, options=RuntimeOptions(runtime="openvino")
        )
        self.held = Held()
        self.held.put("tiny", self.predictor)
        self.idle = SimpleNamespace(idle_seconds=IDLE_SECONDS)
        self.is_loading = False
        self.available = 100 * GIB
        self.now = 0.0
        self.preloading = Preloading(
            self.held,
            Store(root),
            wanted,
            idle=self.idle,
            is_loading=lambda: self.is_loading,
            available=lambda: self.available,
            clock=lambda: self.now,
        )


def test_an_idle_worker_loads_it_and_a_busy_one_does_not(root: Path) -> None:
    worker = Worker(root)
    worker.idle.idle_seconds = IDLE_SECONDS - 1
    worker.preloading.look()
    worker.idle.idle_seconds, worker.is_loading = IDLE_SECONDS, True
    worker.preloading.look()
    assert not worker.predictor.can_explain()
    worker.is_loading = False
    worker.preloading.look()
    assert worker.predictor.can_explain()


@pytest.mark.parametrize(("wanted", "loads"), [("auto", False), ("on", True)])
def test_without_memory_to_spare_only_who_insists_gets_it(
    wanted: Preload, loads: bool, root: Path
) -> None:
    worker = Worker(root, wanted)
    worker.available = 0.5 * GIB
    worker.preloading.look()
    assert worker.predictor.can_explain() == loads


def test_where_memory_was_short_it_looks_again_later(root: Path) -> None:
    worker = Worker(root)
    worker.available = 0.5 * GIB
    worker.preloading.look()
    worker.available = 100 * GIB
    worker.now += RETRY_SECONDS - 1
    worker.preloading.look()
    assert not worker.predictor.can_explain()
    worker.now += 2
    worker.preloading.look()
    assert worker.predictor.can_explain()


def test_off_it_ends_at_once(root: Path) -> None:
    worker = Worker(root, "off")
    thread = Thread(target=worker.preloading.watch, args=(Event(),))
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert not worker.predictor.can_explain()


def test_what_fails_is_left_for_who_asks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, tries = Worker(root), list[int]()

    def fails(_predictor: Any) -> None:
        tries.append(1)
        raise OSError("the disk")

    monkeypatch.setattr(VersionPredictor, "load_explain", fails)
    for _ in range(3):
        worker.preloading.look()
    assert len(tries) == 1


def test_there_is_memory() -> None:
    assert 1e6 < available_bytes() < 1e15
