import pytest

from models.faces.calibration.intervals import clopper_pearson
from models.faces.calibration.support import rule_of_three


@pytest.mark.parametrize(
    ("errors", "trials", "low", "high"),
    [
        # Quantiles of beta distributions, computed with an independent implementation.
        (0, 5, 0.0, 0.5218237501),
        (5, 5, 0.4781762499, 1.0),
        (1, 10, 0.002528578544, 0.445016117),
        (51, 3161, 0.01203590221, 0.02115941506),
        (19, 42_918, 0.0002665575202, 0.0006912522697),
        (12_345, 17_000_000, 0.0007134269357, 0.0007390965291),
    ],
)
def test_the_limits_are_exact(errors: int, trials: int, low: float, high: float) -> None:
    assert clopper_pearson(errors, trials) == pytest.approx((low, high), rel=1e-6, abs=1e-12)


def test_without_trials_every_rate_is_possible() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert rule_of_three(0) == 1.0


def test_more_errors_than_trials_are_rejected() -> None:
    with pytest.raises(ValueError):
        clopper_pearson(4, 3)


def test_the_rule_of_three_approximates_the_exact_limit() -> None:
    one_sided = clopper_pearson(0, 3000, confidence=0.90)[1]
    assert rule_of_three(3000) == pytest.approx(one_sided, rel=2e-3)
