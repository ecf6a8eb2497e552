import math
from typing import Any

import pytest

from contracts.training.trainings import Schedule, TrainingRequest
from models.training.loop.state import TrainingState


def state_after(losses: list[float], schedule: Schedule = "constant") -> TrainingState:
    state = TrainingState(phase="head", learning_rate=0.9)
    for loss in losses:
        state.close_epoch(loss, schedule, 0.9)
    return state


def request(**fields: Any) -> TrainingRequest:
    rates = {"learning_rate": {"head": 0.9}, "epochs": {"head": 10}}
    given = {"dataset_id": "ds_x", "model": "m", "network": "vgg16"}
    return TrainingRequest.model_validate(given | rates | fields)


@pytest.mark.parametrize(
    ("losses", "patience", "over"),
    [
        ([3, 2, 1], 1, False),
        ([3, 1, 2], 2, False),
        ([3, 1, 2, 2], 2, True),
        ([3, 1, 1, 1], 2, True),  # equal is not better
        ([3, 1, 2, 0.5], 2, False),
        ([3, 4, 5, 6, 7], None, False),
        ([1] * 10, None, True),  # all ten epochs are done
    ],
)
def test_phase_ends_without_improvement(
    losses: list[float], patience: int | None, over: bool
) -> None:
    assert state_after(losses).is_over(10, patience) is over


def test_first_of_equal_epochs_is_the_best() -> None:
    state = state_after([3, 1, 2, 1])
    assert (state.best_epoch, state.best_loss) == (2, 1)


def test_any_epoch_is_better_than_one_whose_loss_is_not_a_number() -> None:
    losses = [math.nan, math.nan, 0.9, math.nan, 0.5, 0.7]
    assert [state_after(losses[:n]).best_epoch for n in range(1, 7)] == [1, 1, 3, 3, 5, 5]


def test_plateau_divides_the_rate_by_three_every_two_epochs() -> None:
    rates = [round(state_after([1.0] * n, "plateau").learning_rate, 6) for n in range(1, 6)]
    assert rates == [0.9, 0.9, 0.3, 0.3, 0.1]
    assert state_after([1.0] * 99, "plateau").learning_rate == pytest.approx(0.009)
    assert state_after([3, 2, 1, 0.5], "plateau").learning_rate == 0.9


def test_cosine_decays_to_zero() -> None:
    state = TrainingState(phase="head", learning_rate=0.9)
    rates = []
    for steps in (0, 25, 50, 100):
        state.steps_taken = steps
        rates.append(state.rate(request(schedule="cosine"), 10))
    assert rates == pytest.approx([0.9, 0.9 * (0.5 + math.sqrt(0.125)), 0.45, 0])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"at": [2, 5], "factor": 0.5}, [0.9, 0.9, 0.45, 0.45, 0.45, 0.225]),
        ("step", [0.9] * 5 + [0.09]),
    ],
)
def test_steps_divide_the_rate_at_their_epochs(schedule: Any, expected: list[float]) -> None:
    state = TrainingState(phase="head", learning_rate=0.9)
    rates = []
    for state.epoch in range(6):
        rates.append(state.rate(request(schedule=schedule), 10))
    assert rates == pytest.approx(expected)


def test_decay_divides_the_rate_step_by_step_as_in_keras() -> None:
    state = TrainingState(phase="head", learning_rate=0.9, steps_taken=50)
    assert state.rate(request(decay=0.01), 10) == pytest.approx(0.9 / 1.5)


def test_next_phase_resets_the_position_and_keeps_times() -> None:
    state = state_after([3, 1, 2])
    state.best_epochs["head"], state.seconds["head"] = 2, 4.5
    after = state.begin("finetune", 1e-5)
    assert (after.epoch, after.best_epoch, after.best_loss) == (0, 0, math.inf)
    assert (after.best_epochs, after.seconds) == ({"head": 2}, {"head": 4.5})


def test_json_round_trip_is_exact() -> None:
    state = state_after([1 / 3, 0.1 + 0.2])
    state.sums = state.sums.add(1e-17, 2, 3)
    assert TrainingState.model_validate_json(state.model_dump_json()) == state
    fresh = TrainingState(phase="head", learning_rate=1e-3)
    assert TrainingState.model_validate_json(fresh.model_dump_json()) == fresh
