import numpy as np
import pytest

from contracts.create.requests import Optimizer
from models.create.style.optimizers import Array, descent_of
from tests.models import keras_warnings
from tests.models.create.image_work import photo
from tests.models.create.networks import small_objective

pytestmark = keras_warnings.ignored

CONTENT, STYLE = (np.asarray(photo(32, 24, seed), np.float32) for seed in (1, 2))
EVALUATIONS = 40


def losses_of(optimizer: Optimizer) -> list[float]:
    objective = small_objective()
    objective.set_targets(CONTENT, [STYLE], [1.0])
    losses = []

    def evaluate(image: Array) -> tuple[float, Array]:
        found, gradient = objective.evaluate(image)
        losses.append(found.total)
        return found.total, gradient

    descent_of(optimizer, 5.0).run(CONTENT, evaluate, EVALUATIONS)
    return losses


def test_lbfgs_reaches_a_lower_loss_than_adam_at_equal_evaluations() -> None:
    lbfgs, adam = losses_of("lbfgs"), losses_of("adam")
    assert len(lbfgs) == len(adam) == EVALUATIONS
    assert min(lbfgs) < min(adam) < adam[0]


def test_lbfgs_returns_the_best_image_and_ends_at_a_minimum() -> None:
    target = np.full((4, 4, 3), 7.0, np.float32)
    count = 0

    def bowl(image: Array) -> tuple[float, Array]:
        nonlocal count
        count += 1
        return float(np.sum((image - target) ** 2)), 2 * (image - target)

    found = descent_of("lbfgs", 1).run(np.zeros_like(target), bowl, 100)
    np.testing.assert_allclose(found, target, atol=1e-3)
    assert count < 100


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_two_blocks_and_a_restart_between_them_are_the_same(optimizer: Optimizer) -> None:
    objective = small_objective()
    objective.set_targets(CONTENT, [STYLE], [1.0])

    def evaluate(image: Array) -> tuple[float, Array]:
        losses, gradient = objective.evaluate(image)
        return losses.total, gradient

    descent = descent_of(optimizer, 5.0)
    half = descent.run(CONTENT, evaluate, 6)
    state = {name: np.copy(one) for name, one in descent.state().items()}
    whole = descent.run(half, evaluate, 6)
    restarted = descent_of(optimizer, 5.0)
    restarted.restore(state)
    np.testing.assert_array_equal(restarted.run(half, evaluate, 6), whole)
