"""While a training's libraries are loaded, it has a fraction and an estimate of the time left."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import DatasetNotFound
from contracts.settings import Settings
from contracts.work import Work
from models.datasets.store import DatasetStore
from models.training.loop.costs import PLAN
from tests.models.datasets.packing import tree, written
from tests.models.training.samples import RecordingWork
from workers.jobs import training_start

REQUEST = {"model": "pets", "network": "cnn_small", "strategy": "from_scratch"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(_env_file=None, home=tmp_path / "home", min_free_disk_bytes=0)
    folder = written(tmp_path / "pets", tree({"cat": 6, "dog": 6}))
    DatasetStore.of(settings).create("pets", folder, dataset_id="ds_pets")
    return settings


def work_of(root: Path, dataset_id: str) -> RecordingWork:
    work = RecordingWork(root / "work")
    work.request = REQUEST | {"dataset_id": dataset_id}
    return work


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the training was begun with."""
    begun: dict[str, Any] = {}

    def run(work: Work, settings: Settings, start_seconds: dict[str, float]) -> dict[str, Any]:
        begun.update(start_seconds, work=work)
        return {"settings": settings}

    module = types.ModuleType("workers.jobs.training")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "workers.jobs.training", module)
    return begun


def test_loading_is_reported_with_the_time_left(
    settings: Settings, begun: dict[str, Any], tmp_path: Path
) -> None:
    work = work_of(tmp_path, "ds_pets")
    assert training_start.run(work, settings) == {"settings": settings}
    reports = work.reports
    assert {report.phase for report in reports} == {"loading"}
    assert all((report.eta_seconds or 0) > 0 for report in reports)
    assert 0 < reports[0].fraction < reports[-1].fraction < 1
    assert begun["start"] > 0
    assert begun["loading"] >= 0
    assert (work.folder / PLAN).exists(), "the rest of the training goes on with the same plan"


def test_missing_dataset_is_left_to_the_training(
    settings: Settings, begun: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(DatasetNotFound):
        DatasetStore.of(settings).load("ds_none")
    work = work_of(tmp_path, "ds_none")
    training_start.run(work, settings)
    assert begun["work"] is work
