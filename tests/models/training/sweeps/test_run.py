"""A sweep ends with the best version alone, also if it is stopped on the way."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from contracts.errors import NotTrainable
from contracts.settings import Settings
from contracts.training.sweeps import SweepResult
from contracts.work import WorkStoppedError
from models.datasets.store import DatasetStore
from models.store.store import Store
from models.training import run as training
from models.training.sweeps.run import _Part, run
from tests.models import keras_warnings
from tests.models.training.in_memory_work import InMemoryWork

pytestmark = keras_warnings.ignored

COLORS = {"blue": (40, 60, 200), "red": (200, 50, 40)}
RATES = (1e-9, 3e-3)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("validation", 6), ("test", 6)):
        for name, color in COLORS.items():
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(rng.normal(color, 80, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    settings = Settings(_env_file=None, home=tmp_path, decode_threads=1)
    DatasetStore.of(settings).create("colors", tmp_path / "images", dataset_id="ds_colors")
    return settings


def sweep(**fields: Any) -> dict[str, Any]:
    request = {
        "dataset_id": "ds_colors",
        "model": "colors",
        "network": "cnn_small",
        "image_size": 16,
        "epochs": {"scratch": 3},
        "batch_size": 8,
        **fields,
    }
    trainings = [
        {
            "values": {"learning_rate.scratch": rate},
            "request": request | {"learning_rate": {"scratch": rate}},
        }
        for rate in RATES
    ]
    return {
        "dataset_id": "ds_colors",
        "model": "colors",
        "combinations": len(RATES),
        "metric": "accuracy",
        "trainings": trainings,
    }


class CountedWork(InMemoryWork):
    """Also counts epochs, as the process of a job does."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.epochs: list[tuple[str, int]] = []

    def trained(self, phase: str, images: int) -> None:
        self.epochs.append((phase, images))


def work(settings: Settings, request: dict[str, Any], stop: int | None = None) -> CountedWork:
    """Work that is stopped while it evaluates its training of that number."""
    folder = settings.home / "work"
    folder.mkdir(exist_ok=True)
    seen = []

    def on_phase(phase: str) -> None:
        seen.append(phase)
        if stop is not None and seen.count("scratch") == stop and phase == "export":
            raise WorkStoppedError

    return CountedWork("job_sweep", request, folder, on_phase=on_phase)


def test_only_the_best_version_is_kept_and_promoted(settings: Settings) -> None:
    request = sweep()
    stopped = work(settings, request, stop=2)
    with pytest.raises(WorkStoppedError):
        run(stopped, settings)
    assert len(stopped.rows) == 1
    assert stopped.epochs == [("scratch", 32)] * 6, "three of each of two trainings"
    done = work(settings, request)
    result = SweepResult.model_validate(run(done, settings))
    assert [row["epoch"] for row in done.rows] == [2], "the first was trained again"
    assert done.epochs == [], "what was counted is not counted again"
    assert (result.best, result.promoted, result.combinations) == (2, True, 2)
    scores = [row.score for row in result.trainings]
    assert scores[1] == max(score or 0 for score in scores) > 0.9
    assert result.trainings[1].metrics["validation"].accuracy == scores[1]
    store = Store(settings.store_home)
    assert [manifest.version for manifest in store.manifests("colors")] == [result.version]
    assert [row.version for row in result.trainings] == [None, result.version]
    assert store.aliases("colors") == {"champion": result.version}
    spec = store.manifest("colors", result.version).provenance.spec
    assert spec is not None
    assert spec["learning_rate"]["scratch"] == RATES[1]
    table = done.artifacts["trainings.csv"][1].decode()
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["number"] for row in rows] == ["1", "2"]
    assert [row["version"] for row in rows] == ["", str(result.version)]
    assert {"curves.png", "confusion_matrix.png"} <= done.artifacts.keys()
    assert done.artifacts["curves.png"][0] == "image/png"
    assert done.fractions == sorted(done.fractions)


def test_a_training_that_fails_is_a_row(settings: Settings) -> None:
    request = sweep(promote="never")
    request["metric"] = "loss"
    request["trainings"][0]["request"]["classes"] = ["blue", "nonesuch"]
    result = SweepResult.model_validate(run(work(settings, request), settings))
    first = result.trainings[0]
    assert first.error is not None
    assert "nonesuch" in first.error.detail
    assert (first.score, first.version, result.best, result.promoted) == (None, None, 2, False)
    assert result.trainings[1].score == result.trainings[1].metrics["validation"].loss
    only = request | {"trainings": request["trainings"][:1]}
    other = InMemoryWork("job_other", only, settings.home / "other")
    other.folder.mkdir()
    with pytest.raises(NotTrainable, match="nonesuch"):
        run(other, settings)


def test_a_training_that_needs_too_much_memory_is_a_row(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are not lost for it; a full disk would fail them too."""
    train, failures = (
        training.train,
        [
            tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
        ],
    )

    def failing(*args: Any, **kwargs: Any) -> Any:
        if failures:
            raise failures.pop()
        return train(*args, **kwargs)

    monkeypatch.setattr(training, "train", failing)
    result = SweepResult.model_validate(run(work(settings, sweep()), settings))
    first, second = result.trainings
    assert first.error is not None
    assert "Out of memory" in first.error.detail
    assert (second.version, result.promoted) == (result.version, True)
    failures = [tf.errors.ResourceExhaustedError(None, None, "x; No space left on device")]
    other = InMemoryWork("job_other", sweep(), settings.home / "other")
    other.folder.mkdir()
    with pytest.raises(tf.errors.ResourceExhaustedError):
        run(other, settings)
    assert not list(other.folder.glob("rows.json"))


def test_its_trainings_may_promote_what_the_sweep_may(settings: Settings) -> None:
    whole = work(settings, sweep())
    assert _Part(whole, 1, {}, 0, 1).scopes == frozenset()
    whole.scopes = frozenset({"train", "faces"})
    assert _Part(whole, 1, {}, 0, 1).scopes == whole.scopes
