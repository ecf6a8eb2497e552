"""A version measured again on its own test images has the figures of its training."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contracts.inference.evaluation import EvaluationResult
from contracts.settings import Settings
from contracts.training.training_result import TrainingResult
from contracts.work import WorkStoppedError
from models.datasets.store import DatasetStore
from models.evaluation import job
from models.training import run as training
from tests.models import keras_warnings
from tests.models.training.in_memory_work import InMemoryWork

pytestmark = keras_warnings.ignored

COLORS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (200, 50, 40)}


def images(folder: Path, *names: str, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(20):
            color = COLORS.get(name, (128, 128, 128))
            pixels = np.clip(rng.normal(color, 80, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("home")
    settings = Settings(home=home, decode_threads=1)
    library = DatasetStore.of(settings)
    library.create("colors", images(home / "a", *COLORS, seed=0), dataset_id="ds_colors")
    library.create("other", images(home / "b", "Red", "blue", "gray", seed=1), dataset_id="ds_2")
    return settings


@pytest.fixture(scope="module")
def trained(settings: Settings) -> list[TrainingResult]:
    """Version 1 has learned one epoch, version 2 has hardly learned."""
    return [
        TrainingResult.model_validate(training.run(work(settings, f"job_{n}", **more), settings))
        for n, more in enumerate([{}, {"learning_rate": {"scratch": 1e-9}, "promote": "always"}])
    ]


def work(settings: Settings, name: str, **more: object) -> InMemoryWork:
    folder = settings.home / "work" / name
    folder.mkdir(parents=True, exist_ok=True)
    request = {"dataset_id": "ds_colors", "model": "colors", "network": "cnn_small"}
    request |= {"image_size": 16, "epochs": {"scratch": 2}, "batch_size": 16} | more
    return InMemoryWork(name, request, folder)


def evaluated(settings: Settings, **request: object) -> tuple[EvaluationResult, InMemoryWork]:
    folder = settings.home / "work"
    request = {"dataset_id": "ds_colors", "model": "colors", "version": 1} | request
    done = InMemoryWork("job_evaluation", request, folder)
    return EvaluationResult.model_validate(job.run(done, settings)), done


def test_figures_are_those_of_the_training(
    settings: Settings, trained: list[TrainingResult]
) -> None:
    result, done = evaluated(settings, against=2)
    told = trained[0]
    assert (result.split, result.metrics) == ("test", told.metrics["test"])
    assert result.confusion_matrix == told.confusion_matrix
    shared = set(type(told.per_class[0]).model_fields)
    assert [r.model_dump(include=shared) for r in result.per_class] == [
        report.model_dump() for report in told.per_class
    ]
    assert told.served is not None
    assert (result.runtime, result.pictures) == (told.served.runtime, told.served.pictures)
    assert result.accuracy_interval.low < result.accuracy <= result.accuracy_interval.high
    assert (result.seen_in_training, result.unknown_classes, result.warnings) == (0, {}, [])
    assert result.most_wrong == told.most_wrong

    compared = result.comparison
    assert compared is not None
    assert compared.accuracy == result.accuracy
    assert compared.against_accuracy == trained[1].metrics["test"].accuracy
    cells = (compared.both_right, compared.only_version_right, compared.only_against_right)
    assert sum(cells) + compared.both_wrong == result.pictures == 9

    assert set(done.artifacts) == {"confusion_matrix.png", "mistakes.png", "predictions.csv"}
    rows = list(csv.DictReader(io.StringIO(done.artifacts["predictions.csv"][1].decode())))
    assert sum(row["correct"] == "1" for row in rows) == round(result.accuracy * 9)
    assert {row["label"] for row in rows} == set(COLORS)
    assert done.fractions == sorted(done.fractions)


@pytest.mark.usefixtures("trained")
def test_other_datasets_and_seen_images_are_said(settings: Settings) -> None:
    other, _ = evaluated(settings, dataset_id="ds_2", split="all")
    assert (other.pictures, other.unknown_classes) == (40, {"gray": 20})
    assert {warning.code for warning in other.warnings} == {"unknown_classes", "missing_classes"}
    seen, _ = evaluated(settings, split="all")
    assert (seen.pictures, seen.seen_in_training) == (60, 42)
    assert [warning.code for warning in seen.warnings] == ["seen_in_training"]


@pytest.mark.usefixtures("trained")
def test_cancelled_evaluation_stops(settings: Settings) -> None:
    def stop(phase: str) -> None:
        if phase == "evaluate":
            raise WorkStoppedError

    request = {"dataset_id": "ds_colors", "model": "colors", "version": 1}
    stopped = InMemoryWork("job_stop", request, settings.home / "work", on_phase=stop)
    with pytest.raises(WorkStoppedError):
        job.run(stopped, settings)
    assert stopped.artifacts == {}
