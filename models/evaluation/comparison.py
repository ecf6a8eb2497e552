"""Statistics of right and wrong answers: intervals, and whether two classifiers differ."""

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from contracts.inference.evaluation import Comparison, Interval, Verdict
from models.faces.calibration.intervals import clopper_pearson

_SIGNIFICANT = 0.05
_NORMAL = 1.959964  # the 97.5% quantile of the normal distribution

Right = npt.NDArray[np.bool_]
"""(images,): whether each answer is right."""


def share_interval(part: int, whole: int) -> Interval:
    """The exact 95% interval of a share."""
    low, high = clopper_pearson(part, whole)
    return Interval(low=low, high=high)


def compare(version: Right, against: Right, *, number: int, runtime: str) -> Comparison:
    """Compare two versions on the same images, in the same order.

    Args:
        number: The other version.
        runtime: Of the other version.
    """
    both, neither = int((version & against).sum()), int((~version & ~against).sum())
    only_version, only_against = int((version & ~against).sum()), int((~version & against).sum())
    count = len(version)
    p_value = mcnemar(only_version, only_against)
    return Comparison(
        against=number,
        runtime=runtime,
        pictures=count,
        accuracy=float(version.mean()),
        against_accuracy=float(against.mean()),
        against_accuracy_interval=share_interval(int(against.sum()), count),
        difference=(only_version - only_against) / count,
        difference_interval=difference_interval(only_version, only_against, count),
        both_right=both,
        only_version_right=only_version,
        only_against_right=only_against,
        both_wrong=neither,
        p_value=p_value,
        verdict=_verdict(only_version - only_against, p_value),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """The p-value of McNemar's exact test.

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12 (1947). If both are equally good, each answer that only one of
    them has right is as likely the first's as the second's.
    """
    differing = only_first + only_second
    return float(binomtest(only_first, differing).pvalue) if differing else 1.0


def difference_interval(only_first: int, only_second: int, count: int) -> Interval:
    """The 95% interval of the difference of two paired shares.

    A. Agresti and Y. Min, "Simple improved confidence intervals for comparing matched proportions",
    Statistics in Medicine 24 (2005): Wald's interval after half a pair was added to each cell.
    """
    first, second, total = only_first + 0.5, only_second + 0.5, count + 2
    center = (first - second) / total
    error = math.sqrt(first + second - (first - second) ** 2 / total) / total
    return Interval(
        low=max(-1.0, center - _NORMAL * error), high=min(1.0, center + _NORMAL * error)
    )


def _verdict(difference: int, p_value: float) -> Verdict:
    if p_value >= _SIGNIFICANT:
        return "no_difference"
    return "better" if difference > 0 else "worse"
