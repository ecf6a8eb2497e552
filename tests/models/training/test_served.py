"""What a training reports is what its version answers, by the runtime that serves it."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from contracts.inference.manifest import Draft
from contracts.settings import Settings
from contracts.training.training_result import TrainingResult
from models.datasets.store import DatasetStore
from models.serving.openvino.runtime import OpenVinoRuntime
from models.serving.parity_gate import TOLERANCES
from models.serving.predictor import VersionPredictor
from models.serving.runtime import Precision, RuntimeOptions
from models.serving.selection import choose_runtime
from models.store.store import Store
from models.training.exported import decode_examples
from models.training.run import run
from tests.models import keras_warnings
from tests.models.training.in_memory_work import InMemoryWork

pytestmark = keras_warnings.ignored

COLORS = {"blue": (70, 80, 150), "green": (80, 140, 80), "red": (150, 80, 70)}
SIDE = 16
ODD = 250
"""A level that the first pixel of one test image has, and no other image."""


class Coarse(OpenVinoRuntime):
    """Stands for bfloat16, which not every processor has: its answers differ from float32's."""

    stray: ClassVar[float] = 0.0
    """How much all answers differ."""
    odd_stray: ClassVar[float] = 0.0
    """How much that for the odd image differs."""

    def __init__(
        self, folder: Path, manifest: Draft, precision: Precision, options: RuntimeOptions
    ) -> None:
        super().__init__(folder, manifest, "float32", options)
        self.name = f"openvino-{precision}"

    def answers(self, endpoints: Any, images: Any) -> Any:
        answers = super().answers(endpoints, images)
        answer = answers.get("serve")
        if answer is None or self.name != "openvino-bfloat16":
            return answers
        odd = images[:, 0, 0, 0] == ODD
        share = np.where(odd, self.odd_stray, self.stray)[:, None].astype(np.float32)
        other = np.eye(3, dtype=np.float32)[answer.argmin(axis=1)]
        return answers | {"serve": answer + share * (other - answer)}


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> type[Coarse]:
    monkeypatch.setattr("models.serving.selection.OpenVinoRuntime", Coarse)
    monkeypatch.setattr(Coarse, "stray", 0.0)
    monkeypatch.setattr(Coarse, "odd_stray", 0.0)
    return Coarse


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("validation", 4), ("test", 9)):
        for name, color in COLORS.items():
            folder = home / "pictures" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(rng.normal(color, 60, (SIDE, SIDE, 3)), 0, 240).astype(np.uint8)
                if (split, name, number) == ("test", "green", 4):
                    pixels[0, 0, 0] = ODD
                Image.fromarray(pixels).save(folder / f"{number}.png")
    settings = Settings(_env_file=None, home=home, decode_threads=1)
    DatasetStore.of(settings).create("colors", home / "pictures", dataset_id="ds_colors")
    return settings


def trained(settings: Settings, model: str, **fields: Any) -> TrainingResult:
    folder = settings.home / "work" / model
    folder.mkdir(parents=True)
    request = {
        "dataset_id": "ds_colors",
        "model": model,
        "network": "cnn_small",
        "image_size": SIDE,
        "epochs": {"scratch": 2},
        "batch_size": 16,
        **fields,
    }
    result = run(InMemoryWork(f"job_{model}", request, folder), settings)
    return TrainingResult.model_validate_json(json.dumps(result))


def answered(settings: Settings, model: str) -> tuple[VersionPredictor, Any, Any]:
    """The loaded version, and its answers for all test images with their true classes."""
    folder = Store(settings.store_home).path(model, 1)
    predictor = VersionPredictor(folder, max_batch_size=4, options=RuntimeOptions.of(settings))
    examples = DatasetStore.of(settings).load("ds_colors").of("test")
    pixels = decode_examples(examples, predictor.manifest, max_pixels=10**6)
    truth = np.array([list(COLORS).index(example.label) for example in examples])
    return predictor, predictor.run("classify", pixels), truth


def confusion(answers: Any, truth: Any) -> list[list[int]]:
    best = answers.argmax(axis=1)
    return [[int(((truth == t) & (best == b)).sum()) for b in range(3)] for t in range(3)]


def test_report_is_of_the_runtime_that_serves(settings: Settings, coarse: type[Coarse]) -> None:
    coarse.stray = coarse.odd_stray = 0.045
    result = trained(settings, "served")
    predictor, answers, truth = answered(settings, "served")
    served = result.served
    assert served is not None
    assert served.runtime == predictor.runtime == "openvino-bfloat16"
    assert (served.split, served.pictures, served.rejected) == ("test", 27, {})
    assert 0.02 < served.largest_difference <= 0.05
    # Every figure of the held-out images can be found again by asking the service.
    assert result.confusion_matrix.counts == confusion(answers, truth)
    accuracy = float((answers.argmax(axis=1) == truth).mean())
    assert served.accuracy == result.metrics["test"].accuracy == pytest.approx(accuracy)
    loss = float(-np.log(answers[np.arange(27), truth]).mean())
    assert result.metrics["test"].loss == pytest.approx(loss, rel=1e-5)
    manifest = predictor.manifest
    assert manifest.served == served
    assert manifest.metrics["test_loss"] == result.metrics["test"].loss
    # The files themselves agree with the network; what was compared is said.
    assert result.agreement.largest_difference < 1e-4
    assert "float32" in result.agreement.compared
    assert "Keras" in result.parity.compared


def test_precision_that_strays_too_far_is_not_served(
    settings: Settings, coarse: type[Coarse]
) -> None:
    coarse.odd_stray = 0.5  # one of 27 test images, which no even choice of eight contains
    result = trained(settings, "strayed")
    served = result.served
    assert served is not None
    assert served.runtime == "openvino-float32"
    assert served.largest_difference < 1e-3
    reason = served.rejected["bfloat16"]
    assert "a probability deviated by" in reason
    assert "on its 27 test images" in reason
    predictor, answers, truth = answered(settings, "strayed")
    assert predictor.runtime == "openvino-float32"
    assert predictor.runtime_reason == f"openvino-bfloat16: {reason}"
    assert result.confusion_matrix.counts == confusion(answers, truth)
    # A worker that does not know the entry, or has another processor, compares on that image.
    older = predictor.manifest.model_copy(update={"served": None})
    folder = Store(settings.store_home).path("strayed", 1)
    selected = choose_runtime(folder, older, RuntimeOptions.of(settings))
    assert selected.runtime.name == "openvino-float32"


def test_champion_of_another_runtime_is_evaluated_anew(
    settings: Settings, coarse: type[Coarse]
) -> None:
    """The accuracy of a champion in float32 says nothing about it in bfloat16."""
    coarse.odd_stray = 0.5
    trained(settings, "rivals")  # served in float32
    coarse.odd_stray = 0.0
    folder = settings.home / "work" / "rivals-2"
    folder.mkdir()
    request = {"dataset_id": "ds_colors", "model": "rivals", "network": "cnn_small"}
    request |= {"image_size": SIDE, "epochs": {"scratch": 1}}  # type: ignore[dict-item]
    loaded: list[str] = []
    work = InMemoryWork("job_rivals-2", request, folder, on_phase=loaded.append)
    store = Store(settings.store_home)
    manifest = store.path("rivals", 1) / "manifest.json"
    spoilt = json.loads(manifest.read_text())
    spoilt["metrics"]["held_out_accuracy"] = 0.123  # would be taken if it were trusted
    manifest.write_text(json.dumps(spoilt))
    promotion = TrainingResult.model_validate(run(work, settings)).promotion
    assert promotion.champion_accuracy != 0.123
    assert "check" in loaded


def test_loss_of_independent_outputs_is_theirs_on_all_splits(settings: Settings) -> None:
    result = trained(settings, "independent", head={"units": [8], "output": "independent"})
    _, answers, truth = answered(settings, "independent")
    right = np.abs(1 - np.eye(3)[truth] - answers.astype(float))
    assert result.metrics["test"].loss == pytest.approx(float(-np.log(right).mean()), rel=1e-4)


class Careless(Coarse):
    """Stands for int8 that decides otherwise where float32 is not sure, which the gate allows."""

    def run(self, endpoint: Any, images: Any) -> Any:
        answer = super().run(endpoint, images)
        if endpoint == "serve" and self.name == "openvino-int8":
            ranked = np.sort(answer, axis=1)
            unsure = ranked[:, -1] - ranked[:, -2] < TOLERANCES["int8"].tie
            answer[unsure] = 1 / 3 + (1 / 3 - answer[unsure]) / 2
        return answer


def test_int8_that_loses_accuracy_is_rejected(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.serving.selection.OpenVinoRuntime", Careless)
    asked = settings.model_copy(update={"precision": "int8"})
    served = trained(asked, "careless").served
    assert served is not None
    assert served.runtime == "openvino-bfloat16"
    assert "the accuracy fell from" in served.rejected["int8"]
    assert served.accuracy == served.float32_accuracy


def test_int8_that_answers_as_well_is_served_if_asked_for(
    settings: Settings, coarse: type[Coarse]
) -> None:
    served = trained(settings.model_copy(update={"precision": "int8"}), "careful").served
    assert served is not None
    assert (served.runtime, served.rejected) == ("openvino-int8", {})
