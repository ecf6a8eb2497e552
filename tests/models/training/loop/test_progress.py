"""One fraction over all stages, and the time that is left, on a clock that a test turns."""

import time
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from contracts.jobs import Progress
from contracts.training.training_options import Augmentation
from contracts.training.trainings import TrainingRequest
from contracts.work import WorkStoppedError
from models.datasets.dataset import Dataset
from models.training.loop import progress as module
from models.training.loop.costs import (
    CostFile,
    Stage,
    expected_seconds,
    learning_stages,
    stages_of,
)
from models.training.loop.progress import ProgressReporter
from models.training.loop.state import TrainingState
from tests.models.training.samples import RecordingWork, small_request

STAGES = {"start": 10.0, "features of head": 40.0, "head": 20.0, "export": 25.0, "check": 5.0}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run_through(
    work: RecordingWork, true_seconds: dict[str, float], steps: int = 20
) -> list[tuple[float, Progress]]:
    """Report as a training would; returns the seconds really left at each report."""
    clock = Clock()
    reporter = ProgressReporter(work, STAGES, clock)
    clock.now += true_seconds["start"]
    reporter.elapsed("start", true_seconds["start"])
    ends = clock.now + sum(true_seconds[name] for name in STAGES if name != "start")
    told = []
    for name in list(STAGES)[1:]:
        for step in range(steps + 1):
            reporter.report(name, step / steps)
            told.append((ends - clock.now, work.reports[-1]))
            clock.now += true_seconds[name] / steps if step < steps else 0
    return told


@pytest.mark.parametrize(
    "factors",
    [(1, 1, 1, 1, 1), (3, 3, 3, 3, 3), (0.2, 0.2, 0.2, 0.2, 0.2), (1, 2, 1, 2, 1), (2, 1, 1, 1, 2)],
)
def test_time_left_is_right_within_a_factor_of_two(
    work: RecordingWork, factors: tuple[float, ...]
) -> None:
    """From the first tenth on, on machines of another speed and with costs that are wrong."""
    true_seconds = {
        name: seconds * factor
        for (name, seconds), factor in zip(STAGES.items(), factors, strict=True)
    }
    total = sum(true_seconds.values())
    for left, report in run_through(work, true_seconds):
        assert report.eta_seconds is not None
        if 0.02 * total < left < 0.9 * total:
            assert left / 2 <= report.eta_seconds <= left * 2, report


def test_fraction_covers_all_stages_and_never_goes_back(work: RecordingWork) -> None:
    run_through(work, STAGES)
    fractions = [report.fraction for report in work.reports]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.1, 1.0)
    assert {report.phase for report in work.reports} == {"features", "head", "export", "check"}


def test_fraction_is_the_same_in_every_attempt(work: RecordingWork, tmp_path: Path) -> None:
    fast, slow = RecordingWork(tmp_path / "fast"), RecordingWork(tmp_path / "slow")
    run_through(fast, dict.fromkeys(STAGES, 1.0))
    run_through(slow, dict.fromkeys(STAGES, 90.0))
    assert [one.fraction for one in fast.reports] == [one.fraction for one in slow.reports]


def test_cached_features_do_not_promise_a_fast_machine(work: RecordingWork) -> None:
    clock = Clock()
    reporter = ProgressReporter(work, STAGES, clock)
    reporter.elapsed("start", 10)
    reporter.report("features of head", 0)
    clock.now += 0.1
    reporter.skip("features of head", 0.9)
    reporter.report("features of head", 0.9)
    eta = work.reports[-1].eta_seconds
    assert eta == pytest.approx(4 + 20 + 25 + 5, rel=0.15)
    assert "features of head" not in reporter.ratios()


def test_stage_without_steps_moves_by_its_time(
    work: RecordingWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TICK_SECONDS", 0.005)
    clock, reports = Clock(), work.reports
    reporter = ProgressReporter(work, STAGES, clock)
    with reporter.during("export"):
        clock.now += 12.5
        _until(lambda: reports[-1].fraction > 0.8)
        assert reports[-1].fraction == pytest.approx(0.7 + 0.125, abs=0.06)
        clock.now += 1000
        _until(lambda: reports[-1].fraction > 0.9)
        assert reports[-1].fraction == pytest.approx(0.7 + 0.25 * 0.9)  # waits for the end
        assert (reports[-1].eta_seconds or 0) > 0
    assert reports[-1].fraction == pytest.approx(0.95)


def test_cancellation_while_a_stage_ends_is_left_to_the_next_one(tmp_path: Path) -> None:
    class Cancelled(RecordingWork):
        stopped = Event()

        def progress(self, progress: Progress) -> None:
            if self.stopped.is_set():
                raise WorkStoppedError("cancelled")

    work = Cancelled(tmp_path)
    reporter = ProgressReporter(work, STAGES)
    with reporter.during("export"):
        work.stopped.set()
    with pytest.raises(WorkStoppedError):
        reporter.report("check", 0)


def test_likely_end_lies_between_the_first_and_the_last_possible() -> None:
    state = TrainingState(phase="scratch", learning_rate=1, best_epoch=5, epoch=5)
    assert state.likely_end(50, None, 5) == 50
    end = state.likely_end(50, 3, 5)
    assert 8 < end < 50
    assert state.likely_end(6, 3, 5) == 6
    assert state.likely_end(50, 3, 50) == 50


REQUEST = small_request()
LARGE = TrainingRequest(dataset_id="ds_1", model="m", network="vgg16")


def test_stages_are_those_of_the_strategy(dataset: Dataset) -> None:
    scratch = list(stages_of(REQUEST, dataset, starts=False, loads=False))
    after = ["evaluate", "export", "check", "report", "publish", "promote"]
    assert scratch == ["data", "build", "scratch", *after]
    head = list(stages_of(LARGE, dataset, starts=True, loads=True))
    before = ["start", "loading", "data", "build", "features of head", "head"]
    assert head == [*before, *after, "load"]
    never = LARGE.model_copy(update={"promote": "never"})
    assert "load" not in stages_of(never, dataset, starts=True, loads=True)


def test_a_report_on_many_classes_takes_longer(dataset: Dataset) -> None:
    few, many = (
        CostFile(Path("none")).seconds(
            stages_of(REQUEST, replace(dataset, classes=names), starts=True, loads=True)
        )
        for names in (("a", "b"), tuple("abcdefghijklmnopqrst"))
    )
    assert many["report"] == 4 * few["report"]
    assert {**many, "report": 0} == {**few, "report": 0}


def test_a_phase_without_cached_features_has_costs_of_its_own(dataset: Dataset) -> None:
    flipped = {"strategy": "fine_tuning", "augmentation": Augmentation(horizontal_flip=True)}
    cached = learning_stages(LARGE.model_copy(update={"strategy": "fine_tuning"}), dataset)
    tuned = learning_stages(LARGE.model_copy(update=flipped), dataset)
    fresh = learning_stages(
        LARGE.model_copy(update=flipped | {"augmented_views": "fresh"}), dataset
    )
    assert "features of finetune" in cached
    assert [name for name in tuned if name.startswith("features")] == ["features of head"]
    assert not [name for name in fresh if name.startswith("features")]
    assert tuned["head"].key == cached["head"].key != fresh["head"].key
    for stages in (tuned, fresh):
        for name in ("finetune", "evaluate"):
            assert stages[name].key != cached[name].key
    assert tuned["evaluate"].default > 10 * cached["evaluate"].default


def test_costs_are_learnt(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "costs.json"
    stages = {"a": Stage("net a", 10, 0.5), "b": Stage("net b", 1, 4.0), "c": Stage("net c", 2, 1)}
    costs = CostFile(file)
    expected = costs.seconds(stages)
    assert expected == {"a": 5.0, "b": 4.0, "c": 2.0}
    costs.learn(stages, expected, {"a": 3.0, "b": 3.0})
    again = CostFile(file).seconds(stages)
    assert again == pytest.approx({"a": 15.0, "b": 12.0, "c": 6.0})  # c as the others
    CostFile(file).learn(stages, again, {"a": 4.0})
    assert CostFile(file).seconds(stages)["a"] == pytest.approx(30.0)  # not 60: one of two
    assert CostFile(file).seconds(stages)["b"] == pytest.approx(12.0)


def test_a_cost_that_is_far_too_high_is_forgotten(tmp_path: Path) -> None:
    file, stages = tmp_path / "costs.json", {"a": Stage("net a", 10, 0.5)}
    CostFile(file).learn(stages, {"a": 5.0}, {"a": 40.0})
    assert CostFile(file).seconds(stages) == {"a": 200.0}
    CostFile(file).learn(stages, {"a": 200.0}, {"a": 0.01})
    assert CostFile(file).seconds(stages) == {"a": 5.0}
    CostFile(file).learn(stages, {"a": 5.0}, {"a": 0.4})
    assert CostFile(file).seconds(stages) == {"a": 2.0}


def test_a_cost_that_is_far_too_low_is_learnt_again(tmp_path: Path) -> None:
    file, stages = tmp_path / "costs.json", {"a": Stage("net a", 10, 0.5)}
    CostFile(file).learn(stages, {"a": 5.0}, {"a": 1.0})
    for _ in range(5):  # it takes an hour, and was expected to take five seconds
        expected = CostFile(file).seconds(stages)
        CostFile(file).learn(stages, expected, {"a": 3600 / expected["a"]})
    assert 1800 < CostFile(file).seconds(stages)["a"] <= 3600


def test_a_night_asleep_is_not_learnt_as_a_cost(tmp_path: Path) -> None:
    file, stages = tmp_path / "costs.json", {"a": Stage("net a", 10, 0.5)}
    CostFile(file).learn(stages, {"a": 5.0}, {"a": 1.0})
    CostFile(file).learn(stages, {"a": 5.0}, {"a": 30_000 / 5})
    assert CostFile(file).seconds(stages)["a"] < 40
    for _ in range(3):
        expected = CostFile(file).seconds(stages)
        CostFile(file).learn(stages, expected, {"a": 5 / expected["a"]})
    assert CostFile(file).seconds(stages)["a"] < 10


@pytest.mark.parametrize("content", [b"", b"[]", b'{"net a": "fast", "net b": -1}', b"\xff"])
def test_damaged_costs_are_ignored(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "costs.json"
    file.write_bytes(content)
    assert CostFile(file).seconds({"a": Stage("net a", 2, 1), "b": Stage("net b", 1, 1)}) == {
        "a": 2.0,
        "b": 1.0,
    }


def test_next_attempt_expects_the_same(tmp_path: Path) -> None:
    stages, plan = {"a": Stage("net a", 1, 2.0)}, tmp_path / "plan.json"
    costs = CostFile(tmp_path / "costs.json")
    first = expected_seconds(plan, costs, stages)
    costs.learn(stages, first, {"a": 5.0})
    assert expected_seconds(plan, CostFile(tmp_path / "costs.json"), stages) == first
    changed = stages | {"b": Stage("net b", 1, 1.0)}
    assert expected_seconds(plan, costs, changed)["a"] == pytest.approx(10.0)


def _until(check: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not check():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.002)
