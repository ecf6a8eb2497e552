"""Explain graphs are loaded while the worker is idle, and only if there is enough memory."""

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
from workers.inference import preload
from workers.inference.loaded_models import LoadedModels
from workers.inference.preload import (
    IDLE_SECONDS,
    RETRY_SECONDS,
    Preloader,
    PreloadMode,
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

    def __init__(self, root: Path, mode: PreloadMode = "auto") -> None:
        self.predictor = VersionPredictor(
            root / "tiny" / "1", max_batch_size=4, options=RuntimeOptions(runtime="openvino")
        )
        self.models = LoadedModels()
        self.models.add("tiny", self.predictor)
        self.batcher = SimpleNamespace(idle_seconds=IDLE_SECONDS)
        self.manager = SimpleNamespace(is_loading=False)
        self.available = 100 * GIB
        self.now = 0.0
        self.preloader = Preloader(
            self.models,
            Store(root),
            mode,
            batcher=self.batcher,
            manager=self.manager,
            available=lambda: self.available,
            clock=lambda: self.now,
        )


def test_idle_worker_loads_and_busy_one_does_not(root: Path) -> None:
    worker = Worker(root)
    worker.batcher.idle_seconds = IDLE_SECONDS - 1
    worker.preloader.run_once()
    worker.batcher.idle_seconds, worker.manager.is_loading = IDLE_SECONDS, True
    worker.preloader.run_once()
    assert not worker.predictor.can_explain()
    worker.manager.is_loading = False
    worker.preloader.run_once()
    assert worker.predictor.can_explain()


@pytest.mark.parametrize(("mode", "loads"), [("auto", False), ("on", True)])
def test_without_spare_memory_only_mode_on_loads(
    mode: PreloadMode, loads: bool, root: Path
) -> None:
    worker = Worker(root, mode)
    worker.available = 0.5 * GIB
    worker.preloader.run_once()
    assert worker.predictor.can_explain() == loads


@pytest.mark.parametrize(("mode", "loaded"), [("auto", 1), ("on", 2)])
def test_few_versions_of_a_shared_base_are_preloaded(
    mode: PreloadMode, loaded: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preload, "PRELOADED_HEADS", 1)
    worker = Worker(root, mode)
    second = Worker(root).predictor
    assert second.base is not None
    assert second.base is worker.predictor.base
    second.version = 2
    worker.models.add("tiny", second)
    monkeypatch.setattr(worker.preloader, "_required_bytes", lambda *_: 0)
    for _ in range(3):
        worker.preloader.run_once()
    assert worker.predictor.can_explain() + second.can_explain() == loaded
    second.load_explain()  # as a request does
    assert second.can_explain()


def test_memory_is_checked_again_later(root: Path) -> None:
    worker = Worker(root)
    worker.available = 0.5 * GIB
    worker.preloader.run_once()
    worker.available = 100 * GIB
    worker.now += RETRY_SECONDS - 1
    worker.preloader.run_once()
    assert not worker.predictor.can_explain()
    worker.now += 2
    worker.preloader.run_once()
    assert worker.predictor.can_explain()


def test_mode_off_ends_at_once(root: Path) -> None:
    worker = Worker(root, "off")
    thread = Thread(target=worker.preloader.run, args=(Event(),))
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert not worker.predictor.can_explain()


def test_failed_load_is_not_tried_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, tries = Worker(root), list[int]()

    def fails(_predictor: Any) -> None:
        tries.append(1)
        raise OSError("the disk")

    monkeypatch.setattr(VersionPredictor, "load_explain", fails)
    for _ in range(3):
        worker.preloader.run_once()
    assert len(tries) == 1


def test_available_bytes_is_plausible() -> None:
    assert 1e6 < available_bytes() < 1e15
