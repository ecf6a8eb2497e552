"""The lowest false match rate that a number of pairs supports; without SciPy, for the API too."""

import math

from contracts.errors import NotTrainable

_ROUNDING = 1 - 1e-9  # so that 3 / 0.001 does not fail by the last bit


def rule_of_three(trials: int) -> float:
    """The lowest error rate that so many trials can support at 95% confidence.

    If no error was observed in n trials, the upper limit of the rate is 1 - 0.05^(1/n), almost 3/n
    (ISO/IEC 19795-1, annex B).
    """
    return min(1.0, 3 / trials) if trials else 1.0


def require_support(impostor_pairs: int, target: float) -> None:
    """Refuse a rate that so few pairs of different people cannot distinguish from zero.

    Raises:
        NotTrainable: It is below `rule_of_three`.
    """
    smallest = rule_of_three(impostor_pairs)
    if target < smallest * _ROUNDING:
        needed = math.ceil(3 / target * _ROUNDING)
        raise NotTrainable(
            f"{impostor_pairs:,} pairs of different people cannot support a false match rate of "
            f"{target:g}: at least {needed:,} are needed. Add people or images, or request "
            f"{_round_up(smallest):g} or more."
        )


def _round_up(rate: float) -> float:
    """Round up to two significant digits."""
    unit: float = 10.0 ** (math.floor(math.log10(rate)) - 1)
    return round(math.ceil(rate / unit) * unit, 12)
