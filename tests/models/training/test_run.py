"""From a folder to a served version, with interruptions at every stage."""

import csv
import io
import json
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from contracts.errors import DatasetNotFound, ValidationFailed
from contracts.inference.manifest import Endpoint, Provenance
from contracts.inference.serving import Serving
from contracts.queue.messages import Pixels
from contracts.settings import Settings
from contracts.training.training_result import TrainingResult
from contracts.training.trainings import TrainingRequest
from contracts.work import WorkStoppedError
from models.datasets.store import DatasetStore
from models.export import quantization
from models.export.saved_model import REFERENCE_IMAGES
from models.serving.openvino.runtime import OpenVinoRuntime
from models.serving.predictor import VersionPredictor
from models.store.store import Store
from models.training.data.data_source import LibrarySource
from models.training.run import run
from tests.models import keras_warnings
from tests.models.drafts import DRAFT, write_files
from tests.models.training.in_memory_work import InMemoryWork

pytestmark = keras_warnings.ignored

COLORS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (200, 50, 40)}
REQUEST = {
    "dataset_id": "ds_colors",
    "model": "colors",
    "network": "cnn_small",
    "image_size": 16,
    "epochs": {"scratch": 2},
    "batch_size": 16,
    "filters_every": 2,
}


class Killed(BaseException):
    """Stands for SIGKILL: no code catches it."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        folder = home / "pictures" / name
        folder.mkdir(parents=True)
        for number in range(20):
            pixels = np.clip(rng.normal(color, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    settings = Settings(home=home, decode_threads=1)
    DatasetStore.of(settings).create("colors", home / "pictures", dataset_id="ds_colors")
    return settings


def work_of(settings: Settings, job: str, **request: object) -> InMemoryWork:
    folder = settings.home / "work" / job
    folder.mkdir(parents=True, exist_ok=True)
    return InMemoryWork(job, {**REQUEST, **request}, folder)


def test_folder_becomes_a_served_version(settings: Settings) -> None:
    work = work_of(settings, "job_whole", model="whole", augmentation={"rotation": 9})
    result = TrainingResult.model_validate_json(json.dumps(run(work, settings)))
    assert (result.model, result.version, result.promoted) == ("whole", 1, True)
    assert result.metrics["test"].accuracy > 0.5
    assert sum(map(sum, result.confusion_matrix.counts)) == result.metrics["test"].pictures == 9
    assert [report.label for report in result.per_class] == list(COLORS)
    assert result.curves == work.rows
    assert len(work.rows) == 2
    assert result.agreement.largest_difference < 1e-4
    assert result.provenance.job_id == "job_whole"
    assert result.provenance.seed == 8
    assert work.fractions == sorted(work.fractions)

    store = Store(settings.store_home)
    manifest = store.manifest("whole", 1)
    assert manifest.metrics["test_accuracy"] == result.metrics["test"].accuracy
    predictor = VersionPredictor(store.path("whole", 1), max_batch_size=1)
    red = np.full((1, 16, 16, 3), COLORS["red"], np.uint8)
    assert predictor.run("classify", red).shape == (1, 3)

    assert set(work.artifacts) == {
        "augmentation.png", "curves.png", "confusion_matrix.png", "mistakes.png", "filters.gif",
        "predictions.csv", "response.gif", "tensorboard.zip",
    }  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(work.artifacts["predictions.csv"][1].decode())))
    cells = Counter((row["label"], row["predicted"]) for row in rows)
    matrix = result.confusion_matrix
    assert cells == Counter({
        (label, predicted): count
        for label, counts in zip(matrix.labels, matrix.counts, strict=True)
        for predicted, count in zip(matrix.labels, counts, strict=True)
        if count
    })  # fmt: skip
    assert {row["split"] for row in rows} == {result.held_out}
    with zipfile.ZipFile(io.BytesIO(work.artifacts["tensorboard.zip"][1])) as logs:
        assert {Path(name).parts[0] for name in logs.namelist()} == {"training", "validation"}


@pytest.mark.parametrize("moment", ["export", "publish", "promote"])
def test_killed_run_makes_one_version_when_run_again(settings: Settings, moment: str) -> None:
    def kill(phase: str) -> None:
        if phase == moment:
            raise Killed

    model = f"killed-{moment}"
    first = work_of(settings, f"job_{moment}", model=model, epochs={"scratch": 1}, filters_every=0)
    first = InMemoryWork(first.job_id, first.request, first.folder, on_phase=kill)
    with pytest.raises(Killed):
        run(first, settings)
    again = InMemoryWork(first.job_id, first.request, first.folder)
    result = TrainingResult.model_validate(run(again, settings))
    store = Store(settings.store_home)
    assert store.versions(model) == [result.version] == [1]
    assert store.aliases(model) == {"champion": 1}
    assert result.curves == first.rows
    if moment == "promote":  # already published: nothing is trained or drawn again
        assert again.phases == ["promote"]
        assert again.artifacts == {}
    assert run(again, settings)["version"] == 1


def test_stopped_run_publishes_nothing(settings: Settings) -> None:
    def stop(phase: str) -> None:
        if phase == "publish":
            raise WorkStoppedError

    work = work_of(settings, "job_stop", model="stopped", epochs={"scratch": 1}, filters_every=0)
    work = InMemoryWork(work.job_id, work.request, work.folder, on_phase=stop)
    with pytest.raises(WorkStoppedError):
        run(work, settings)
    assert Store(settings.store_home).versions("stopped") == []


def test_a_run_without_room_for_its_version_does_not_begin(settings: Settings) -> None:
    """There was room when it was queued."""
    nearly_full = settings.model_copy(update={"min_free_disk_bytes": 10**18})
    work = work_of(settings, "job_full", model="full", epochs={"scratch": 1}, filters_every=0)
    with pytest.raises(OSError, match="No space left"):
        run(work, nearly_full)
    assert work.phases == ["data"]


def test_cancellation_after_publishing_is_ignored(settings: Settings) -> None:
    def stop(phase: str) -> None:
        if phase == "promote":
            raise WorkStoppedError

    work = work_of(settings, "job_late", model="late", epochs={"scratch": 1}, filters_every=0)
    work = InMemoryWork(work.job_id, work.request, work.folder, on_phase=stop)
    assert run(work, settings)["promoted"] is True
    assert Store(settings.store_home).aliases("late") == {"champion": 1}


def test_a_cancellation_ends_the_comparison_with_the_champion(settings: Settings) -> None:
    class Cancelled(InMemoryWork):
        def check(self) -> None:
            if self.phases[-1] == "promote":
                raise WorkStoppedError("cancelled")

    fewer = settings.home / "fewer"
    for name in COLORS:
        shutil.copytree(settings.home / "pictures" / name, fewer / name)
        (fewer / name / "0.png").unlink()
    DatasetStore.of(settings).create("fewer", fewer, dataset_id="ds_fewer")
    few = {"epochs": {"scratch": 1}, "filters_every": 0, "model": "compared"}
    run(work_of(settings, "job_champ", **few, learning_rate={"scratch": 1e-9}), settings)
    work = work_of(settings, "job_challenger", **few, dataset_id="ds_fewer")
    work = Cancelled(work.job_id, work.request, work.folder)
    result = TrainingResult.model_validate(run(work, settings))
    assert (result.version, result.promoted) == (2, False)
    assert "cancelled" in result.promotion.reason
    assert Store(settings.store_home).aliases("compared") == {"champion": 1}


def test_promoted_version_is_waited_for(settings: Settings) -> None:
    waited: list[tuple[str, int]] = []

    def until_served(model: str, version: int, check: Callable[[], None]) -> Serving:
        check()
        waited.append((model, version))
        return Serving(workers=2, ready=2, seconds=1.5)

    few = {"epochs": {"scratch": 1}, "filters_every": 0}
    work = work_of(settings, "job_waits", model="waits", **few)
    result = TrainingResult.model_validate(
        run(work, settings, None, until_served, {"start": 1.0, "loading": 2.0})
    )
    assert result.serving == Serving(workers=2, ready=2, seconds=1.5)
    assert work.phases[-1] == "load"
    assert work.fractions[-1] == 1.0
    work = work_of(settings, "job_never", model="waits", promote="never", **few)
    assert run(work, settings, None, until_served)["serving"] is None
    assert waited == [("waits", 1)]
    costs = json.loads((settings.home / "cache" / "training-costs.json").read_text())
    assert {"process", "libraries", "cnn_small@16 export", "cnn_small@16 scratch"} <= costs.keys()


def test_cancellation_while_the_workers_load_is_ignored(settings: Settings) -> None:
    def stop(phase: str) -> None:
        if phase == "load":
            raise WorkStoppedError("cancelled")

    def until_served(model: str, version: int, check: Callable[[], None]) -> Serving:
        raise AssertionError("there is no reason to wait any more")

    work = work_of(settings, "job_gone", model="gone", epochs={"scratch": 1}, filters_every=0)
    work = InMemoryWork(work.job_id, work.request, work.folder, on_phase=stop)
    result = run(work, settings, None, until_served)
    assert (result["promoted"], result["serving"]) == (True, None)


def test_a_champion_of_people_is_replaced_for_keys_with_the_scope_faces(
    settings: Settings,
) -> None:
    store = Store(settings.store_home)
    with store.staging() as folder:
        write_files(folder)
        provenance = Provenance(spec={"subjects": ["sub_a", "sub_b"]})
        draft = DRAFT.model_copy(update={"provenance": provenance})
        store.promote("people", store.publish("people", folder, draft))
    few = {"model": "people", "promote": "always", "epochs": {"scratch": 1}, "filters_every": 0}
    assert run(work_of(settings, "job_train", **few), settings)["promoted"] is False
    assert store.aliases("people") == {"champion": 1}
    work = work_of(settings, "job_faces", **few)
    work.scopes = frozenset({"train", "faces"})
    assert run(work, settings)["promoted"] is True


def test_a_version_rolled_back_while_its_job_was_interrupted_is_not_promoted_again(
    settings: Settings,
) -> None:
    few = {"model": "rolled-back", "epochs": {"scratch": 1}, "filters_every": 0}
    run(work_of(settings, "job_before", **few), settings)

    def kill(model: str, version: int, check: Callable[[], None]) -> Serving:
        raise Killed

    work = work_of(settings, "job_after", promote="always", **few)
    with pytest.raises(Killed):
        run(work, settings, None, kill)
    store = Store(settings.store_home)
    assert store.promote("rolled-back", 1) == 2
    result = run(InMemoryWork(work.job_id, work.request, work.folder), settings)
    assert (result["version"], result["promoted"]) == (2, True)
    assert store.aliases("rolled-back") == {"champion": 1}


def test_image_has_the_name_of_the_admitted_copy(settings: Settings) -> None:
    folder = settings.home / "copies"
    shutil.copytree(settings.home / "pictures", folder)
    for kind in COLORS:
        shutil.copy(folder / kind / "3.png", folder / kind / "a-copy.png")
    library = DatasetStore.of(settings)
    listing = library.create("copies", folder, dataset_id="ds_copies")
    assert listing.info.rejected_count == len(COLORS)
    request = TrainingRequest.model_validate(REQUEST | {"dataset_id": "ds_copies"})
    data = LibrarySource.of(request, settings).load()
    admitted = {file.path for file in listing.files if file.status == "admitted"}
    assert {data.names[example.sha256] for example in data.dataset.examples} == admitted


def test_invalid_request_is_refused_first(settings: Settings) -> None:
    with pytest.raises(ValidationFailed, match="published network"):
        run(work_of(settings, "job_name", model="vgg16"), settings)
    with pytest.raises(DatasetNotFound):
        run(work_of(settings, "job_none", dataset_id="ds_none"), settings)


class BlueInt8(OpenVinoRuntime):
    """In int8, it is sound on the eight reference images and says "blue" to more of them."""

    def answers(
        self, endpoints: Sequence[Endpoint], images: Pixels
    ) -> dict[Endpoint, npt.NDArray[np.float32]]:
        answers = super().answers(endpoints, images)
        if self.name == "openvino-int8" and len(images) > REFERENCE_IMAGES:
            blue = np.tile(np.array([0.8, 0.1, 0.1], np.float32), (len(images), 1))
            answers = dict.fromkeys(answers, blue)
        return answers


def test_int8_champion_is_evaluated_in_int8(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the float32 files next to it answer, and the metrics of those say."""
    monkeypatch.setattr("models.serving.selection.OpenVinoRuntime", BlueInt8)
    run(work_of(settings, "job_champion", model="int8", promote="always"), settings)
    request = {"model": "int8", "version": 1, "dataset_id": "ds_colors", "max_accuracy_loss": 1}
    folder = settings.home / "work" / "job_int8"
    folder.mkdir()
    quantized = quantization.run(InMemoryWork("job_int8", request, folder), settings)
    assert (quantized["version"], quantized["promoted"]) == (2, True)
    served = Store(settings.store_home).manifest("int8", 2).served
    assert served is not None
    assert served.runtime == "openvino-int8"
    result = run(work_of(settings, "job_rival", model="int8"), settings)
    promotion = TrainingResult.model_validate(result).promotion
    assert promotion.champion == 2
    assert promotion.champion_accuracy == pytest.approx(1 / 3)  # of three colors
    assert promotion.promoted is True
