from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.errors import InvalidImage, ValidationFailed
from contracts.work import WorkStoppedError
from models.datasets.dataset import SPLITS, Dataset
from models.export.saved_model import export_version
from models.export.signatures import signatures
from models.images.decode import decode
from models.training.data.feature_cache import FeatureCache
from models.training.data.features import Extractor
from models.training.loop.trainer import Workshop, train
from models.training.trained import Trained
from models.training.validation import check_classes, check_names, class_weights
from models.weights.catalog import Weights, WeightsMissing
from tests.models import keras_warnings
from tests.models.training.material import COUNTS, RecordingWork, asked

pytestmark = keras_warnings.ignored

FROZEN = {
    "network": "squeezenet",
    "head": {"units": [16]},
    "epochs": {"head": 4, "finetune": 2},
    "image_size": 64,
}
VARIED = {"rotation": 20, "zoom": 0.2, "horizontal_flip": True}
STRATEGIES: dict[str, dict[str, Any]] = {
    "scratch": {"epochs": {"scratch": 5}},
    "scratch varied": {"epochs": {"scratch": 2}, "augmentation": VARIED, "schedule": "cosine"},
    "frozen": FROZEN,
    "frozen varied": FROZEN | {"augmentation": VARIED, "augmented_views": 2},
    "tuned": FROZEN | {"strategy": "fine_tuning", "learning_rate": {"finetune": 1e-3}},
    "tuned varied": FROZEN
    | {"strategy": "fine_tuning", "augmentation": VARIED, "augmented_views": 0},
}

SLOW = ("scratch varied", "frozen", "tuned varied")


def figures(trained: Trained) -> list[Any]:
    return [*trained.history, *(one.probabilities.tolist() for one in trained.evaluations.values())]


@pytest.mark.parametrize(
    "strategy",
    [
        "scratch",
        "frozen varied",
        "tuned",
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
    ],
)
def test_every_strategy_ends_in_a_network_that_can_be_exported(
    strategy: str, dataset: Dataset, work: RecordingWork, workshop: Workshop, tmp_path: Path
) -> None:
    request = asked(**STRATEGIES[strategy])
    trained = train(request, dataset, work, workshop)

    phases = list(dict.fromkeys(row["phase"] for row in trained.history))
    assert tuple(phases) == request.phases
    assert list(trained.history) == work.rows
    assert set(work.rows[0]) == {
        *("epoch", "phase", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")
    }
    for phase in phases:
        rows = [row for row in work.rows if row["phase"] == phase]
        assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
        best = min(rows, key=lambda row: row["val_loss"])
        assert trained.best_epochs[phase] == best["epoch"]
    # The last phase's best epoch is what was kept.
    validated = trained.evaluations["validation"]
    assert validated.loss == pytest.approx(best["val_loss"], abs=1e-6)
    assert validated.accuracy == best["val_accuracy"]

    fractions = [one.fraction for one in work.told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert {one.phase for one in work.told} >= {*phases, "evaluate"}
    assert any(one.eta_seconds for one in work.told)

    for split in SPLITS:
        evaluation = trained.evaluations[split]
        assert len(evaluation.examples) == len(evaluation.truth) == 2 * COUNTS[split]
        served = serve(trained, evaluation.examples)
        # What was learned from is remembered in bfloat16 where the processor has it.
        atol = 2e-3 if split == "train" else 1e-5
        np.testing.assert_allclose(evaluation.probabilities, served, atol=atol)
        right = served.argmax(1) == [dataset.classes.index(e.label) for e in evaluation.examples]
        assert evaluation.accuracy == right.mean()
    if strategy in {"scratch", "tuned"}:
        pixels = np.stack([load(trained, one) for one in dataset.of("test")[:2]])
        draft = export_version(
            trained.model, trained.blueprint, tmp_path, pictures=pixels, labels=trained.labels
        )
        assert draft.classes == 2
        assert draft.endpoints[0] == "serve"


def load(trained: Trained, example: Any) -> Any:
    height, width = trained.model.inputs[0].shape[1:3]

    class Target:
        input_size = (height, width)
        short_side = trained.blueprint.short_side

    return decode(example.path.read_bytes(), network=Target(), max_pixels=10**6).pixels


def serve(trained: Trained, examples: Any) -> Any:
    """As a worker answers: uint8 pictures through the endpoint of the finished network."""
    pixels = np.stack([load(trained, one) for one in examples])
    serve = signatures(trained.model, trained.blueprint)["serve"]
    return serve.run(pixels)["probabilities"].numpy()


def test_it_learns(dataset: Dataset, work: RecordingWork, workshop: Workshop) -> None:
    trained = train(asked(epochs={"scratch": 15}), dataset, work, workshop)
    assert trained.evaluations["test"].accuracy >= 0.95


@pytest.mark.parametrize(
    "strategy", ["scratch varied", pytest.param("tuned", marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_the_seed_makes_it_repeatable(
    strategy: str, dataset: Dataset, workshop: Workshop, tmp_path: Path
) -> None:
    def run(name: str, seed: int) -> list[Any]:
        request = asked(**STRATEGIES[strategy] | {"seed": seed})
        fresh = replace(workshop, cache=FeatureCache(tmp_path / f"cache-{name}"))
        return figures(train(request, dataset, RecordingWork(tmp_path / name), fresh))

    assert run("one", 8) == run("two", 8) != run("three", 9)


@pytest.mark.parametrize("strategy", ["scratch", pytest.param("tuned", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_it_stops_within_a_step(
    strategy: str, dataset: Dataset, work: RecordingWork, workshop: Workshop, tmp_path: Path
) -> None:
    train(asked(**STRATEGIES[strategy]), dataset, work, workshop)
    # One question a step, and a few for features and validation: none of them may be ignored.
    steps = sum(3 for _ in work.rows)
    assert work.checks >= steps
    for stop_after in (0, 1, work.checks // 2, work.checks - 1):
        folder = tmp_path / f"stopped-{stop_after}"
        stopped = RecordingWork(folder, stop_after=stop_after)
        fresh = replace(workshop, cache=FeatureCache(folder / "cache"))
        with pytest.raises(WorkStoppedError):
            train(asked(**STRATEGIES[strategy]), dataset, stopped, fresh)
        assert stopped.checks == stop_after + 1


def test_the_base_runs_once_for_all_trainings(
    dataset: Dataset, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(asked(**FROZEN), dataset, RecordingWork(tmp_path / "first"), workshop)
    shards = {path: path.stat().st_size for path in (tmp_path / "cache").glob("*/*")}
    assert shards
    ran = []
    monkeypatch.setattr("models.training.data.features._padded", lambda *_: ran.append(1))
    other = asked(**FROZEN | {"head": {"units": [8]}, "seed": 9, "model": "other"})
    train(other, dataset, RecordingWork(tmp_path / "second"), workshop)
    assert not ran
    assert {path: path.stat().st_size for path in (tmp_path / "cache").glob("*/*")} == shards


def test_views_vary_only_what_is_learned_from(
    dataset: Dataset, work: RecordingWork, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    views: list[tuple[int, int]] = []
    run = Extractor.run

    def noted(self: Extractor, pictures: Any, *rest: Any) -> Any:
        views.append((len(pictures), self.views))
        return run(self, pictures, *rest)

    monkeypatch.setattr(Extractor, "run", noted)
    train(asked(**STRATEGIES["frozen varied"]), dataset, work, workshop)
    assert views == [(20, 2), (8, 0), (8, 0)]


@pytest.mark.slow
def test_a_full_disk_quota_falls_back_to_running_the_base(
    dataset: Dataset, work: RecordingWork, workshop: Workshop, tmp_path: Path
) -> None:
    none = FeatureCache(tmp_path / "none", limit_bytes=1)
    trained = train(asked(**FROZEN), dataset, work, replace(workshop, cache=none))
    cached = train(asked(**FROZEN), dataset, RecordingWork(tmp_path / "again"), workshop)
    assert not (tmp_path / "none").exists()
    for split in SPLITS:
        np.testing.assert_allclose(
            trained.evaluations[split].probabilities,
            cached.evaluations[split].probabilities,
            atol=1e-4,
        )


def test_pictures_that_do_not_fit_into_memory_are_decoded_again_to_the_same_end(
    dataset: Dataset, workshop: Workshop, tmp_path: Path
) -> None:
    request = asked(**STRATEGIES["scratch varied"])
    small = replace(workshop, memory_bytes=0)
    results = [
        figures(train(request, dataset, RecordingWork(tmp_path / str(n)), shop))
        for n, shop in enumerate((workshop, small))
    ]
    assert results[0] == results[1]


def test_frames_of_the_filters_are_kept(
    dataset: Dataset, work: RecordingWork, workshop: Workshop
) -> None:
    trained = train(
        asked(epochs={"scratch": 3}, filters_every=2, early_stopping_patience=None),
        dataset, work, workshop,
    )  # fmt: skip
    assert [frame.step for frame in trained.filters] == [0, 2, 4, 6, 8]
    assert trained.filters[0].kernels.shape == (3, 3, 3, 64)
    assert not np.array_equal(trained.filters[0].kernels, trained.filters[1].kernels)


def test_half_precision_while_learning_ends_in_float32(
    dataset: Dataset, work: RecordingWork, workshop: Workshop
) -> None:
    trained = train(asked(mixed_precision="on", epochs={"scratch": 2}), dataset, work, workshop)
    assert {variable.dtype for variable in trained.model.variables} == {"float32"}
    assert trained.model.layers[-1].compute_dtype == "float32"
    examples = trained.evaluations["test"].examples
    np.testing.assert_allclose(
        trained.evaluations["test"].probabilities, serve(trained, examples), atol=1e-5
    )


def test_without_validation_pictures_it_judges_by_what_it_learns_from(
    dataset: Dataset, work: RecordingWork, workshop: Workshop
) -> None:
    bare = replace(dataset, examples=dataset.of("train"))
    trained = train(asked(epochs={"scratch": 2}), bare, work, workshop)
    assert [row["val_loss"] for row in work.rows] == [None, None]
    assert list(trained.evaluations) == ["train"]
    assert trained.best_epochs["scratch"] == 2


def test_what_does_not_fit_is_said_before_anything_is_done(dataset: Dataset) -> None:
    with pytest.raises(ValidationFailed, match="no class green"):
        check_classes(asked(class_weights={"green": 1.0}), dataset)
    with pytest.raises(ValidationFailed, match="2 classes apart, not 3"):
        check_names(asked(head={"output": "sigmoid"}), ("blue", "green", "red"))
    blue = tuple(e for e in dataset.examples if e.label == "blue" or e.split != "train")
    with pytest.raises(ValidationFailed, match="no training pictures of red"):
        check_classes(asked(), replace(dataset, examples=blue))


def test_missing_weights_name_the_command_that_helps(
    dataset: Dataset, work: RecordingWork, workshop: Workshop, tmp_path: Path
) -> None:
    nowhere = replace(workshop, weights=Weights(tmp_path / "nowhere", None, True))
    with pytest.raises(WeightsMissing, match="opsin weights pull squeezenet"):
        train(asked(**FROZEN), dataset, work, nowhere)


def test_a_picture_that_went_bad_is_named(
    dataset: Dataset, work: RecordingWork, workshop: Workshop, tmp_path: Path
) -> None:
    def with_first(path: Path) -> Dataset:
        first, *rest = dataset.examples
        return replace(dataset, examples=(replace(first, path=path), *rest))

    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n torn")
    torn, gone = with_first(bad), with_first(tmp_path / "gone.png")
    with pytest.raises(InvalidImage, match=r"bad.png of class 'blue'"):
        train(asked(), torn, work, workshop)
    with pytest.raises(ValidationFailed, match=r"'blue' \(gone.png\) can no longer be read"):
        train(asked(), gone, work, workshop)


def test_a_rate_that_blows_up_says_so(
    dataset: Dataset, work: RecordingWork, workshop: Workshop
) -> None:
    wild = asked(optimizer="sgd", learning_rate={"scratch": 10}, epochs={"scratch": 20},
                 early_stopping_patience=None, l2=1.0)  # fmt: skip
    with pytest.raises(ValidationFailed, match=r"diverged .* lower learning_rate.scratch than 10"):
        train(wild, dataset, work, workshop)


def test_rare_classes_count_for_more(dataset: Dataset) -> None:
    blue, red = dataset.of("train")[:2], dataset.of("train")[10:16]
    uneven = replace(dataset, examples=(*blue, *red))
    assert class_weights(asked(), uneven).tolist() == pytest.approx([2, 2 / 3])
    assert class_weights(asked(class_weights="none"), uneven).tolist() == [1, 1]
    assert class_weights(asked(class_weights={"red": 3.0}), uneven).tolist() == [1, 3]
