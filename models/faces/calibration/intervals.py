"""How far a measured error rate may be from the true one.

Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the
binomial", Biometrika 26 (1934): the limits of a binomial share are quantiles of beta
distributions. They hold whatever the true rate is, zero errors included, as long as the trials
are independent; pairs of the same few people are not, see `models.faces.calibration.bootstrap`.
"""

import math

Interval = tuple[float, float]

_HALVINGS = 80  # of [0, 1]: finer than a float
_TERMS = 500
_TINY = 1e-300


def clopper_pearson(errors: int, trials: int, confidence: float = 0.95) -> Interval:
    """The exact two-sided interval of a binomial share.

    Args:
        errors: How many of the trials went wrong.
        trials: All of them; with none the share may be anything.
        confidence: Of the interval, 0 to 1.
    """
    if not 0 <= errors <= trials:
        raise ValueError(f"{errors} of {trials} is no share")
    tail = (1 - confidence) / 2
    low = _beta_quantile(tail, errors, trials - errors + 1) if errors else 0.0
    high = _beta_quantile(1 - tail, errors + 1, trials - errors) if errors < trials else 1.0
    return low, high


def rule_of_three(trials: int) -> float:
    """The lowest error rate that so many trials can support, at 95 %: none of 3/n went wrong.

    The upper limit of a rate of which no error was seen is 1 - 0.05^(1/n), which is nearly 3/n
    (ISO/IEC 19795-1, annex B).
    """
    return min(1.0, 3 / trials) if trials else 1.0


def _beta_quantile(share: float, a: float, b: float) -> float:
    """Where the regularised incomplete beta function reaches a share, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _incomplete_beta(middle, a, b) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), 0 < x < 1."""
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    front = math.exp(log_front)
    # The fraction converges quickly below the mean; above it the mirrored one does.
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of the incomplete beta function, by Lentz's method (DLMF 8.17.22)."""
    c, d = 1.0, 1 / _apart(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 / _apart(1 + term * d), _apart(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _apart(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
