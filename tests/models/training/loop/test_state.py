import math

import pytest

from contracts.training.trainings import Schedule
from models.training.loop.state import State


def fed(losses: list[float], schedule: Schedule = "constant") -> State:
    state = State(phase="head", learning_rate=0.9)
    for loss in losses:
        state.close_epoch(loss, schedule, 0.9)
    return state


@pytest.mark.parametrize(
    ("losses", "patience", "over"),
    [
        ([3, 2, 1], 1, False),
        ([3, 1, 2], 2, False),
        ([3, 1, 2, 2], 2, True),
        ([3, 1, 1, 1], 2, True),  # as good is not better
        ([3, 1, 2, 0.5], 2, False),
        ([3, 4, 5, 6, 7], None, False),
        ([1] * 10, None, True),  # all ten epochs
    ],
)
def test_a_phase_ends_when_nothing_gets_better(
    losses: list[float], patience: int | None, over: bool
) -> None:
    assert fed(losses).is_over(10, patience) is over


def test_the_first_of_equal_epochs_is_the_best() -> None:
    state = fed([3, 1, 2, 1])
    assert (state.best_epoch, state.best_loss) == (2, 1)


def test_on_a_plateau_the_rate_falls_to_a_third_every_two_epochs() -> None:
    rates = [round(fed([1.0] * n, "plateau").learning_rate, 6) for n in range(1, 6)]
    assert rates == [0.9, 0.9, 0.3, 0.3, 0.1]
    assert fed([1.0] * 99, "plateau").learning_rate == pytest.approx(0.009)
    assert fed([3, 2, 1, 0.5], "plateau").learning_rate == 0.9


def test_a_cosine_falls_from_all_to_nothing() -> None:
    state = State(phase="head", learning_rate=0.9)
    rates = []
    for steps in (0, 25, 50, 100):
        state.steps_taken = steps
        rates.append(state.rate("cosine", 0.9, 100))
    assert rates == pytest.approx([0.9, 0.9 * (0.5 + math.sqrt(0.125)), 0.45, 0])


def test_the_next_phase_begins_anew_and_keeps_what_was_measured() -> None:
    state = fed([3, 1, 2])
    state.best_epochs["head"], state.seconds["head"] = 2, 4.5
    after = state.begin("finetune", 1e-5)
    assert (after.epoch, after.best_epoch, after.best_loss) == (0, 0, math.inf)
    assert (after.best_epochs, after.seconds) == ({"head": 2}, {"head": 4.5})


def test_it_is_read_back_to_the_bit() -> None:
    state = fed([1 / 3, 0.1 + 0.2])
    state.sums = state.sums.plus(1e-17, 2, 3)
    assert State.model_validate_json(state.model_dump_json()) == state
    fresh = State(phase="head", learning_rate=1e-3)
    assert State.model_validate_json(fresh.model_dump_json()) == fresh
