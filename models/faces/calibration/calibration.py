"""The threshold at a false-match rate, and everything that is measured of it. Pure NumPy.

    calibration = calibrate(Comparisons.of(embeddings, labels), 0.001)

A threshold is only as good as the pairs it was chosen on: where they are too few to tell the asked
rate from zero there is no answer but a refusal.
"""

import math
from collections.abc import Mapping

import numpy as np

from contracts.errors import NotTrainable
from contracts.faces.calibration import Calibration, DetPoint, GroupRates, Rate
from models.faces.calibration.bootstrap import Spread, held_out, spread
from models.faces.calibration.comparisons import Comparisons
from models.faces.calibration.intervals import Interval, clopper_pearson, rule_of_three

_SEED = 8
_POINTS = 48
_ENOUGH_ERRORS = 30  # G. Doddington's rule of 30: within 30 % of the rate, at 90 % confidence
_FEW_PEOPLE = 20
_ROUNDING = 1 - 1e-9  # 3 / 0.001 is not to fail by the last bit


def calibrate(
    comparisons: Comparisons, target: float, *, groups: Mapping[str, str] | None = None
) -> Calibration:
    """Choose the threshold for a false-match rate and measure it.

    Args:
        comparisons: All pairs.
        target: The false-match rate that is not to be exceeded on them, 0 to 1.
        groups: By person, a group to be broken down by.

    Raises:
        NotTrainable: The pairs cannot support that rate, or nobody has two faces; says what can.
    """
    require_support(len(comparisons.impostor), target)
    if not len(comparisons.genuine):
        raise NotTrainable(
            "Nobody has two usable faces, so no false non-match rate can be measured. Add at least "
            "a second picture of each person."
        )
    threshold = threshold_at(comparisons, target)
    over_people = spread(comparisons, threshold, target, _SEED)
    return Calibration(
        target_fmr=target,
        threshold=threshold,
        threshold_interval=over_people.threshold,
        fmr=_fmr(comparisons, threshold, over_people.fmr),
        fnmr=_fnmr(comparisons, threshold, over_people.fnmr),
        held_out=held_out(comparisons, target, _SEED),
        equal_error_rate=equal_error_rate(comparisons),
        smallest_supported_fmr=rule_of_three(len(comparisons.impostor)),
        people=int((comparisons.faces > 0).sum()),
        faces=int(comparisons.faces.sum()),
        curve=det_curve(comparisons),
        groups=_by_group(comparisons, threshold, target, groups or {}),
        warnings=_warnings(comparisons, target, groups or {}),
    )


def require_support(impostor_pairs: int, target: float) -> None:
    """Refuse a rate that so few pairs of different people cannot tell from zero.

    Raises:
        NotTrainable: It is below `rule_of_three`.
    """
    smallest = rule_of_three(impostor_pairs)
    if target < smallest * _ROUNDING:
        needed = math.ceil(3 / target * _ROUNDING)
        raise NotTrainable(
            f"{impostor_pairs:,} pairs of different people cannot support a false-match rate of "
            f"{target:g}: at least {needed:,} are needed. Add people or pictures, or ask for "
            f"{_upwards(smallest):g} or more."
        )


def threshold_at(comparisons: Comparisons, target: float) -> float:
    """The lowest threshold at which no more than the target's share of impostor pairs match.

    Midway between the last pair that may match and the first that may not, so that rounding in
    another runtime moves neither.
    """
    allowed = int(target * len(comparisons.impostor) / _ROUNDING)
    if allowed >= len(comparisons.impostor):
        return float(comparisons.impostor[-1])
    first_refused = comparisons.impostor[allowed]
    above = comparisons.impostor[: comparisons.confused(np.nextafter(first_refused, np.float32(2)))]
    if not len(above):
        return float(np.nextafter(first_refused, np.float32(2)))
    middle = np.float32((float(first_refused) + float(above[-1])) / 2)
    return float(max(middle, np.nextafter(first_refused, np.float32(2))))


def equal_error_rate(comparisons: Comparisons) -> float:
    """Where both rates are the same; between two steps, the mean at the step nearest to it."""
    thresholds = np.unique(np.concatenate([comparisons.genuine, comparisons.impostor]))
    fnmr = np.searchsorted(comparisons.genuine, thresholds) / len(comparisons.genuine)
    confused = np.searchsorted(-comparisons.impostor, -thresholds, side="right")
    fmr = confused / len(comparisons.impostor)
    nearest = int(np.argmin(np.abs(fnmr - fmr)))
    return float((fnmr[nearest] + fmr[nearest]) / 2)


def det_curve(comparisons: Comparisons, points: int = _POINTS) -> tuple[DetPoint, ...]:
    """The curve from the strictest threshold to the laxest, its points even in log FMR."""
    ranks = np.unique(np.geomspace(1, len(comparisons.impostor), points).astype(int)) - 1
    thresholds = np.unique(comparisons.impostor[ranks])[::-1]
    return tuple(
        DetPoint(
            threshold=float(one), fmr=comparisons.fmr(float(one)), fnmr=comparisons.fnmr(float(one))
        )
        for one in thresholds
    )


def _fmr(comparisons: Comparisons, threshold: float, over_people: Interval) -> Rate:
    return _rate(comparisons.confused(threshold), len(comparisons.impostor), over_people)


def _fnmr(comparisons: Comparisons, threshold: float, over_people: Interval) -> Rate:
    return _rate(comparisons.missed(threshold), len(comparisons.genuine), over_people)


def _rate(errors: int, pairs: int, over_people: Interval) -> Rate:
    exact = clopper_pearson(errors, pairs)
    return Rate(
        rate=errors / pairs if pairs else None,
        errors=errors,
        pairs=pairs,
        interval=(min(exact[0], over_people[0]), max(exact[1], over_people[1])),
        independent=exact,
    )


def _by_group(
    comparisons: Comparisons, threshold: float, target: float, groups: Mapping[str, str]
) -> tuple[GroupRates, ...]:
    rows = []
    for group in sorted(set(groups.values())):
        members = np.array([groups.get(name) == group for name in comparisons.people])
        own = comparisons.among(members)
        over_people = (
            spread(own, threshold, target, _SEED)
            if len(own.impostor)
            else Spread((-1.0, 1.0), (0.0, 1.0), (0.0, 1.0))
        )
        rows.append(
            GroupRates(
                group=group,
                people=int((own.faces > 0).sum()),
                fmr=_fmr(own, threshold, over_people.fmr),
                fnmr=_fnmr(own, threshold, over_people.fnmr),
            )
        )
    return tuple(rows)


def _warnings(
    comparisons: Comparisons, target: float, groups: Mapping[str, str]
) -> tuple[str, ...]:
    expected = target * len(comparisons.impostor)
    people = int((comparisons.faces > 0).sum())
    single = int((comparisons.faces == 1).sum())
    ungrouped = sum(name not in groups for name in comparisons.people) if groups else 0
    said = (
        (
            expected < _ENOUGH_ERRORS,
            f"only {expected:.0f} false matches are expected at this rate; with {_ENOUGH_ERRORS} "
            f"({math.ceil(_ENOUGH_ERRORS / target):,} pairs) it is known to within a third",
        ),
        (
            people < _FEW_PEOPLE,
            f"{people} people say little of others: mind the intervals, and calibrate on more",
        ),
        (single > 0, f"{single} people have one usable face, and are in impostor pairs only"),
        (ungrouped > 0, f"{ungrouped} people have no group, and are in none of the groups' rates"),
    )
    return tuple(text for cause, text in said if cause)


def _upwards(rate: float) -> float:
    """To two digits, never less."""
    unit: float = 10.0 ** (math.floor(math.log10(rate)) - 1)
    return round(math.ceil(rate / unit) * unit, 12)
