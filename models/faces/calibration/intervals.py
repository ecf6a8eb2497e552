"""Confidence intervals of error rates.

The intervals hold for independent trials. Pairs of the same few people are not independent, see
`models.faces.calibration.bootstrap`.
"""

from scipy.stats import binomtest

Interval = tuple[float, float]


def clopper_pearson(errors: int, trials: int, confidence: float = 0.95) -> Interval:
    """The exact two-sided confidence interval of a binomial proportion.

    C. Clopper and E. Pearson, "The use of confidence or fiducial limits illustrated in the case of
    the binomial", Biometrika 26 (1934).

    Raises:
        ValueError: `errors` is not between 0 and `trials`.
    """
    if not 0 <= errors <= trials:
        raise ValueError(f"{errors} of {trials} is not a proportion")
    if not trials:
        return 0.0, 1.0
    interval = binomtest(errors, trials).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)
