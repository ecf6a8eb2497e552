import numpy as np
import pytest

from models.evaluation.comparison import compare, difference_interval, mcnemar


def test_mcnemar_is_the_exact_binomial_test() -> None:
    # 2 * (1 + 10 + 45) / 2**10, by hand
    assert mcnemar(2, 8) == mcnemar(8, 2) == pytest.approx(112 / 1024)
    assert mcnemar(0, 6) == pytest.approx(2 / 64)
    assert (mcnemar(0, 0), mcnemar(3, 3)) == (1.0, 1.0)


def test_difference_of_paired_shares_is_that_of_agresti_and_min() -> None:
    # Their example: approval of the president, 150 and 86 of 1,600 changed their minds.
    interval = difference_interval(150, 86, 1600)
    assert (interval.low, interval.high) == pytest.approx((0.021, 0.0587), abs=5e-4)
    assert difference_interval(5, 0, 5).high == 1.0


@pytest.mark.parametrize(
    ("only_version", "only_against", "verdict"),
    [(20, 2, "better"), (2, 20, "worse"), (5, 4, "no_difference")],
)
def test_verdict_needs_significance(only_version: int, only_against: int, verdict: str) -> None:
    cells = [(1, 1)] * 30 + [(1, 0)] * only_version + [(0, 1)] * only_against + [(0, 0)] * 3
    version, against = np.array(cells, bool).T
    found = compare(version, against, number=2, runtime="tensorflow-float32")
    assert found.verdict == verdict
    assert (found.both_right, found.both_wrong) == (30, 3)
    assert (found.only_version_right, found.only_against_right) == (only_version, only_against)
    assert found.pictures == len(cells)
    assert found.accuracy - found.against_accuracy == pytest.approx(found.difference)
    assert found.difference_interval.low < found.difference < found.difference_interval.high
