import os
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from contracts.errors import InvalidImage, ValidationFailed
from contracts.work import WorkStoppedError
from models.datasets.dataset import SPLITS, Dataset
from models.export.saved_model import export_version
from models.export.signatures import signatures
from models.images.decode import InputSpec, decode
from models.networks.preprocessing import prepare
from models.training.data.feature_cache import FeatureCache
from models.training.data.features import FeatureExtractor
from models.training.exported import decode_examples
from models.training.loop.phase import class_weights, predict_batches
from models.training.loop.progress import LoggedWork
from models.training.loop.trainer import TrainingEnvironment, train
from models.training.report.event_log import EventLog
from models.training.report.filters_animation import response_animation
from models.training.trained import TrainedModel
from models.weights.catalog import Weights, WeightsMissing
from tests.models import keras_warnings
from tests.models.training.samples import COUNTS, RecordingWork, small_request

pytestmark = keras_warnings.ignored

FROZEN = {
    "network": "squeezenet",
    "head": {"units": [16]},
    "epochs": {"head": 4, "finetune": 2},
    "image_size": 64,
}
AUGMENTATION = {"rotation": 20, "zoom": 0.2, "horizontal_flip": True}
STRATEGIES: dict[str, dict[str, Any]] = {
    "scratch": {"epochs": {"scratch": 5}},
    "scratch augmented": {
        "epochs": {"scratch": 2},
        "augmentation": AUGMENTATION,
        "schedule": "cosine",
    },
    "frozen": FROZEN,
    "frozen augmented": FROZEN | {"augmentation": AUGMENTATION, "augmented_views": 2},
    "tuned": FROZEN | {"strategy": "fine_tuning", "learning_rate": {"finetune": 1e-3}},
    "tuned augmented": FROZEN
    | {"strategy": "fine_tuning", "augmentation": AUGMENTATION, "augmented_views": 0},
}
STRATEGIES |= {
    "gray, centered, squashed": {
        "epochs": {"scratch": 2},
        "image_size": [40, 24],
        "color_mode": "grayscale",
        "centering": "standard",
        "resize": "squash",
        "augmentation": AUGMENTATION | {"zoom": [0.8, 1.2], "channel_shift": 9},
        "schedule": "step",
    },
    "mean subtracted": {
        "epochs": {"scratch": 2},
        "image_size": [24, 40],
        "centering": "mean",
        "optimizer": "sgd",
        "momentum": 0.5,
        "decay": 1e-3,
    },
    "one sigmoid each": {
        "network": "cnn_face",
        "image_size": [46, 38],
        "epochs": {"scratch": 1},
    },
    "fresh views": FROZEN
    | {
        "augmentation": AUGMENTATION,
        "augmented_views": "fresh",
        "head": {"units": [16], "pooling": "max", "dropout": [0.1]},
        "epochs": {"head": 2},
    },
    "one phase": FROZEN
    | {
        "strategy": "fine_tuning",
        "unfreeze_from": 40,
        "epochs": {"head": 0, "finetune": 2},
    },
}

SLOW = ("scratch augmented", "frozen", "tuned augmented")


def figures(trained: TrainedModel) -> list[Any]:
    return [
        *trained.history,
        *(split.probabilities.tolist() for split in trained.evaluations.values()),
    ]


@pytest.mark.parametrize(
    "strategy",
    [
        "scratch",
        "frozen augmented",
        "tuned",
        "gray, centered, squashed",
        "mean subtracted",
        "one sigmoid each",
        "fresh views",
        "one phase",
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
    ],
)
def test_every_strategy_makes_an_exportable_network(
    strategy: str,
    dataset: Dataset,
    work: RecordingWork,
    environment: TrainingEnvironment,
    tmp_path: Path,
) -> None:
    request = small_request(**STRATEGIES[strategy])
    trained = train(request, dataset, work, environment)

    phases = list(dict.fromkeys(row["phase"] for row in trained.history))
    assert tuple(phases) == request.phases
    assert list(trained.history) == work.rows
    assert set(work.rows[0]) == {
        *(
            "epoch",
            "phase",
            "loss",
            "accuracy",
            "val_loss",
            "val_accuracy",
            "learning_rate",
            "images",
        )
    }
    for phase in phases:
        rows = [row for row in work.rows if row["phase"] == phase]
        assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
        best = min(rows, key=lambda row: row["val_loss"])
        assert trained.best_epochs[phase] == best["epoch"]
    # The weights of the last phase's best epoch are kept.
    validated = trained.evaluations["validation"]
    assert validated.loss == pytest.approx(best["val_loss"], abs=1e-6)
    assert validated.accuracy == best["val_accuracy"]

    fractions = [report.fraction for report in work.reports]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert {report.phase for report in work.reports} >= {*phases, "evaluate"}
    assert any(report.eta_seconds for report in work.reports)

    for split in SPLITS:
        evaluation = trained.evaluations[split]
        assert len(evaluation.examples) == len(evaluation.truth) == 2 * COUNTS[split]
        served = serve(trained, evaluation.examples)
        # Features of training images may be bfloat16.
        atol = 2e-3 if split == "train" else 1e-5
        np.testing.assert_allclose(evaluation.probabilities, served, atol=atol)
        correct = served.argmax(1) == [dataset.classes.index(e.label) for e in evaluation.examples]
        assert evaluation.accuracy == correct.mean()
    if strategy in {"scratch", "tuned", "gray, centered, squashed", "one sigmoid each"}:
        pixels = np.stack([load(trained, example) for example in dataset.of("test")[:2]])
        draft = export_version(
            trained.model, trained.blueprint, tmp_path, images=pixels, labels=trained.labels
        )
        assert draft.classes == 2
        assert draft.endpoints[0] == "serve"


def load(trained: TrainedModel, example: Any) -> Any:
    height, width = trained.model.inputs[0].shape[1:3]
    spec = InputSpec((height, width), trained.blueprint.short_side, trained.blueprint.geometry)
    return decode(example.path.read_bytes(), network=spec, max_pixels=10**6).pixels


def serve(trained: TrainedModel, examples: Any) -> Any:
    """Probabilities as a worker computes them: uint8 images through the serving endpoint."""
    pixels = np.stack([load(trained, example) for example in examples])
    serve = signatures(trained.model, trained.blueprint)["serve"]
    return serve.run(pixels)["probabilities"].numpy()


def test_training_reaches_high_accuracy(
    dataset: Dataset, work: RecordingWork, environment: TrainingEnvironment
) -> None:
    trained = train(small_request(epochs={"scratch": 15}), dataset, work, environment)
    assert trained.evaluations["test"].accuracy >= 0.95


@pytest.mark.parametrize(
    "strategy", ["scratch augmented", pytest.param("tuned", marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_same_seed_gives_the_same_result(
    strategy: str, dataset: Dataset, environment: TrainingEnvironment, tmp_path: Path
) -> None:
    def run(name: str, seed: int) -> list[Any]:
        request = small_request(**STRATEGIES[strategy] | {"seed": seed})
        fresh = replace(environment, cache=FeatureCache(tmp_path / f"cache-{name}"))
        return figures(train(request, dataset, RecordingWork(tmp_path / name), fresh))

    assert run("one", 8) == run("two", 8) != run("three", 9)


@pytest.mark.parametrize("strategy", ["scratch", pytest.param("tuned", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_training_stops_within_a_step(
    strategy: str,
    dataset: Dataset,
    work: RecordingWork,
    environment: TrainingEnvironment,
    tmp_path: Path,
) -> None:
    train(small_request(**STRATEGIES[strategy]), dataset, work, environment)
    # One check per step, and some for features and validation: each must stop the training.
    steps = sum(3 for _ in work.rows)
    assert work.checks >= steps
    for stop_after in (0, 1, work.checks // 2, work.checks - 1):
        folder = tmp_path / f"stopped-{stop_after}"
        stopped = RecordingWork(folder, stop_after=stop_after)
        fresh = replace(environment, cache=FeatureCache(folder / "cache"))
        with pytest.raises(WorkStoppedError):
            train(small_request(**STRATEGIES[strategy]), dataset, stopped, fresh)
        assert stopped.checks == stop_after + 1


def test_trainings_share_cached_features(
    dataset: Dataset,
    environment: TrainingEnvironment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train(small_request(**FROZEN), dataset, RecordingWork(tmp_path / "first"), environment)
    shards = {path: path.stat().st_size for path in (tmp_path / "cache").glob("*/*")}
    assert shards
    ran = []
    monkeypatch.setattr("models.training.data.features._run_padded", lambda *_: ran.append(1))
    other = small_request(**FROZEN | {"head": {"units": [8]}, "seed": 9, "model": "other"})
    train(other, dataset, RecordingWork(tmp_path / "second"), environment)
    assert not ran
    assert {path: path.stat().st_size for path in (tmp_path / "cache").glob("*/*")} == shards


def test_only_training_images_have_views(
    dataset: Dataset,
    work: RecordingWork,
    environment: TrainingEnvironment,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    views: list[tuple[int, int]] = []
    extract = FeatureExtractor.extract

    def recording(self: FeatureExtractor, images: Any, *rest: Any) -> Any:
        views.append((len(images), self.views))
        return extract(self, images, *rest)

    monkeypatch.setattr(FeatureExtractor, "extract", recording)
    train(small_request(**STRATEGIES["frozen augmented"]), dataset, work, environment)
    assert views == [(20, 2), (8, 0), (8, 0)]


def test_features_in_files_are_deleted_at_the_end(
    dataset: Dataset,
    work: RecordingWork,
    environment: TrainingEnvironment,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []
    fallocate = os.posix_fallocate

    def recording(descriptor: int, start: int, size: int) -> None:
        made.append(size)
        fallocate(descriptor, start, size)

    monkeypatch.setattr("models.training.loop.trainer.MEMORY_BYTES", 0)
    monkeypatch.setattr(os, "posix_fallocate", recording)
    train(small_request(**FROZEN), dataset, work, environment)
    assert len(made) == 3
    assert not (work.folder / "features").exists()


def test_features_leave_room_on_the_disk(
    dataset: Dataset,
    work: RecordingWork,
    environment: TrainingEnvironment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are recomputed in each epoch instead."""
    monkeypatch.setattr("models.training.loop.trainer.MEMORY_BYTES", 0)
    monkeypatch.setattr(FeatureExtractor, "extract", MagicMock(side_effect=AssertionError))
    full = FeatureCache(tmp_path / "none", kept_bytes=10**18)
    trained = train(small_request(**FROZEN), dataset, work, replace(environment, cache=full))
    assert trained.history
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_too_small_cache_is_not_used(
    dataset: Dataset, work: RecordingWork, environment: TrainingEnvironment, tmp_path: Path
) -> None:
    tiny = FeatureCache(tmp_path / "none", limit_bytes=1)
    trained = train(small_request(**FROZEN), dataset, work, replace(environment, cache=tiny))
    cached = train(small_request(**FROZEN), dataset, RecordingWork(tmp_path / "again"), environment)
    assert not (tmp_path / "none").exists()
    for split in SPLITS:
        np.testing.assert_allclose(
            trained.evaluations[split].probabilities,
            cached.evaluations[split].probabilities,
            atol=1e-4,
        )


def test_memory_limit_does_not_change_the_result(
    dataset: Dataset, environment: TrainingEnvironment, tmp_path: Path
) -> None:
    request = small_request(**STRATEGIES["scratch augmented"])
    small = replace(environment, memory_bytes=0)
    results = [
        figures(train(request, dataset, RecordingWork(tmp_path / str(n)), env))
        for n, env in enumerate((environment, small))
    ]
    assert results[0] == results[1]


def test_filters_are_recorded(
    dataset: Dataset, work: RecordingWork, environment: TrainingEnvironment
) -> None:
    trained = train(
        small_request(epochs={"scratch": 3}, filters_every=2, early_stopping_patience=None),
        dataset, work, environment,
    )  # fmt: skip
    assert [frame.step for frame in trained.filters] == [0, 2, 4, 6, 8]
    assert trained.filters[0].kernels.shape == (3, 3, 3, 64)
    assert not np.array_equal(trained.filters[0].kernels, trained.filters[1].kernels)
    first, second, *_ = trained.responses
    assert [frame.step for frame in trained.responses] == [0, 2, 4, 6, 8]
    assert (first.maps.dtype, first.maps.shape[2]) == (np.float16, 16)
    assert not np.array_equal(first.maps, second.maps)
    with Image.open(BytesIO(response_animation(trained.responses, "conv1"))) as film:
        assert film.n_frames == 5


def test_the_response_is_that_of_the_finished_layer_to_a_held_out_image(
    dataset: Dataset, work: RecordingWork, environment: TrainingEnvironment
) -> None:
    """Without validation the last epoch is kept, so the last frame shows the finished network."""
    without = replace(dataset, examples=dataset.of("train") + dataset.of("test"))
    request = small_request(epochs={"scratch": 1}, filters_every=1, early_stopping_patience=None)
    trained = train(request, without, work, environment)
    convolution = next(
        layer for layer in trained.model.layers if isinstance(layer, keras.layers.Conv2D)
    )
    spec = InputSpec(
        tuple(trained.model.inputs[0].shape[1:3]),
        trained.blueprint.short_side,
        trained.blueprint.geometry,
    )
    (pixels,) = decode_examples(without.of("test")[:1], spec, max_pixels=10**6)
    prepared = prepare(trained.blueprint.preprocessing, pixels[None], 3)
    maps = keras.Model(trained.model.inputs, convolution.output)(prepared)[0].numpy()
    last = trained.responses[-1].maps
    block = maps.shape[0] // last.shape[0]
    expected = maps[: last.shape[0] * block, : last.shape[1] * block, : last.shape[2]]
    blocks = expected.reshape(last.shape[0], block, last.shape[1], block, -1)
    np.testing.assert_allclose(last, blocks.mean(axis=(1, 3)), atol=2e-3)


def test_the_log_has_the_graph_weights_batches_and_the_test_curve(
    dataset: Dataset, work: RecordingWork, environment: TrainingEnvironment, tmp_path: Path
) -> None:
    log = EventLog(tmp_path / "log")
    logged = LoggedWork(work, log)
    request = small_request(epochs={"scratch": 2}, log_every=2, early_stopping_patience=None)
    trained = train(request, dataset, logged, environment, log=log)
    log.close()
    events = [
        (path.parent.name, event.step, value.tag)
        for path in (tmp_path / "log").rglob("*tfevents*")
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    ]
    steps = {step for run, step, tag in events if tag == "batch/loss"}
    taken = len(steps) * 2
    assert steps == set(range(2, taken + 1, 2))
    assert {tag for run, step, tag in events if run == "test"} == {"loss", "accuracy"}
    assert [step for run, step, tag in events if (run, tag) == ("test", "loss")] == [1, 2]
    kernels = {tag for _, _, tag in events if tag.endswith("/kernel")}
    assert len(kernels) == sum(v.path.endswith("kernel") for v in trained.model.trainable_variables)
    graphs = [
        event
        for path in (tmp_path / "log").rglob("*tfevents*")
        for event in tf.compat.v1.train.summary_iterator(str(path))
        if event.graph_def
    ]
    assert len(graphs) == 1


def test_mixed_precision_ends_in_float32(
    dataset: Dataset, work: RecordingWork, environment: TrainingEnvironment
) -> None:
    trained = train(
        small_request(mixed_precision="on", epochs={"scratch": 2}), dataset, work, environment
    )
    assert {variable.dtype for variable in trained.model.variables} == {"float32"}
    assert trained.model.layers[-1].compute_dtype == "float32"
    examples = trained.evaluations["test"].examples
    np.testing.assert_allclose(
        trained.evaluations["test"].probabilities, serve(trained, examples), atol=1e-5
    )


def test_without_validation_the_training_loss_decides(
    dataset: Dataset, work: RecordingWork, environment: TrainingEnvironment
) -> None:
    train_only = replace(dataset, examples=dataset.of("train"))
    trained = train(small_request(epochs={"scratch": 2}), train_only, work, environment)
    assert [row["val_loss"] for row in work.rows] == [None, None]
    assert list(trained.evaluations) == ["train"]
    assert trained.best_epochs["scratch"] == 2


def test_evaluations_have_no_larger_batches_than_the_training(
    dataset: Dataset,
    work: RecordingWork,
    environment: TrainingEnvironment,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A training may have given back the memory that it has not trained with."""
    sizes: list[int] = []

    def recorded(learner: Any, labeled: Any, size: int, work: Any) -> Any:
        sizes.append(size)
        return predict_batches(learner, labeled, size, work)

    monkeypatch.setattr("models.training.loop.trainer.predict_batches", recorded)
    images = dataset.of("train")
    few = {example.label: example for example in images}.values()
    test = [replace(image, split="test") for image in images if image not in few]
    split = replace(dataset, examples=(*few, *test))
    train(small_request(epochs={"scratch": 1}, batch_size=64), split, work, environment)
    assert len(test) > len(few)
    assert sizes == [len(few)] * 2


def test_missing_weights_error_names_the_command(
    dataset: Dataset, work: RecordingWork, environment: TrainingEnvironment, tmp_path: Path
) -> None:
    no_weights = replace(environment, weights=Weights(tmp_path / "nowhere", None, True))
    with pytest.raises(WeightsMissing, match="opsin weights pull squeezenet"):
        train(small_request(**FROZEN), dataset, work, no_weights)


def test_unreadable_image_is_named(
    dataset: Dataset, work: RecordingWork, environment: TrainingEnvironment, tmp_path: Path
) -> None:
    def with_first(path: Path) -> Dataset:
        first, *rest = dataset.examples
        return replace(dataset, examples=(replace(first, path=path), *rest))

    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n torn")
    damaged, missing = with_first(bad), with_first(tmp_path / "gone.png")
    with pytest.raises(InvalidImage, match=r"bad.png of class 'blue'"):
        train(small_request(), damaged, work, environment)
    with pytest.raises(ValidationFailed, match=r"'blue' \(gone.png\) can no longer be read"):
        train(small_request(), missing, work, environment)


def test_divergence_is_an_error(
    dataset: Dataset, work: RecordingWork, environment: TrainingEnvironment
) -> None:
    request = small_request(optimizer="sgd", learning_rate={"scratch": 10}, epochs={"scratch": 20},
                 early_stopping_patience=None, l2=1.0)  # fmt: skip
    with pytest.raises(ValidationFailed, match=r"diverged .* lower learning_rate.scratch than 10"):
        train(request, dataset, work, environment)


def test_auto_weights_favor_rare_classes(dataset: Dataset) -> None:
    blue, red = dataset.of("train")[:2], dataset.of("train")[10:16]
    uneven = replace(dataset, examples=(*blue, *red))
    assert class_weights(small_request(), uneven).tolist() == pytest.approx([2, 2 / 3])
    assert class_weights(small_request(class_weights="none"), uneven).tolist() == [1, 1]
    assert class_weights(small_request(class_weights={"red": 3.0}), uneven).tolist() == [1, 3]
