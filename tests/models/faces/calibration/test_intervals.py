import pytest
from scipy.stats import binomtest

from models.faces.calibration.intervals import clopper_pearson, rule_of_three

PAIRS = [
    (0, 1),
    (0, 30),
    (1, 30),
    (30, 30),
    (3, 17),
    (500, 1000),
    (4, 17_820),
    (19_000, 19_000_000),
]


@pytest.mark.parametrize(("errors", "trials"), PAIRS)
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_they_are_the_exact_ones(errors: int, trials: int, confidence: float) -> None:
    exact = binomtest(errors, trials).proportion_ci(confidence, "exact")
    found = clopper_pearson(errors, trials, confidence)
    assert found == pytest.approx((exact.low, exact.high), rel=1e-6, abs=1e-12)


def test_without_trials_anything_is_possible() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert rule_of_three(0) == 1.0


def test_a_share_beyond_the_whole_is_none() -> None:
    with pytest.raises(ValueError):
        clopper_pearson(4, 3)


def test_three_by_n_is_what_no_error_supports() -> None:
    one_sided = clopper_pearson(0, 3000, confidence=0.90)[1]
    assert rule_of_three(3000) == pytest.approx(one_sided, rel=2e-3)
