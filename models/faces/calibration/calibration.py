"""Chooses the threshold for a false match rate and measures its errors, in pure NumPy.

    calibration = calibrate(Comparisons.of(embeddings, labels), 0.001)

A threshold is only as good as the pairs it was chosen on. If there are too few of them to
distinguish the requested rate from zero, the calibration is refused.
"""

import math
from collections.abc import Mapping

import numpy as np

from contracts.errors import NotTrainable
from contracts.faces.calibration import Calibration, DetPoint, GroupRates, Rate
from models.faces.calibration.bootstrap import UNKNOWN, bootstrap_intervals, held_out
from models.faces.calibration.comparisons import Comparisons
from models.faces.calibration.intervals import Interval, clopper_pearson
from models.faces.calibration.support import require_support, rule_of_three

_SEED = 8
_CURVE_POINTS = 48
# G. Doddington's rule of 30: within 30% of the rate, at 90% confidence.
_ENOUGH_ERRORS = 30
_FEW_PEOPLE = 20
# From here on two faces are one image, apart from the rounding of the embedder.
_ONE_IMAGE = 1 - 1e-6
_ROUNDING = 1 - 1e-9  # so that a share of the pairs is not one too few by the last bit


def calibrate(
    comparisons: Comparisons, target: float, *, groups: Mapping[str, str] | None = None
) -> Calibration:
    """Choose the threshold for a false match rate and measure it.

    Args:
        target: The false match rate not to exceed, 0 to 1.
        groups: Maps a person to a group, for error rates per group.

    Raises:
        NotTrainable: The pairs cannot support that rate (says which they can), no person has two
            faces, or two people have the same image.
    """
    require_support(len(comparisons.impostor), target)
    if not len(comparisons.genuine):
        raise NotTrainable(
            "No person has two usable faces, so no false non-match rate can be measured. Add at "
            "least a second image of each person."
        )
    threshold = threshold_at(comparisons, target)
    if threshold >= _ONE_IMAGE:
        one, other = (comparisons.people[index] for index in comparisons.impostor_of[0])
        raise NotTrainable(
            f"{one!r} and {other!r} have the same image of a face, so no threshold tells them "
            "apart. Each class must be another person: remove the copy, or merge the classes."
        )
    intervals = bootstrap_intervals(comparisons, threshold, target, _SEED)
    return Calibration(
        target_fmr=target,
        threshold=threshold,
        threshold_interval=intervals.threshold,
        fmr=_fmr(comparisons, threshold, intervals.fmr),
        fnmr=_fnmr(comparisons, threshold, intervals.fnmr),
        held_out=held_out(comparisons, target, _SEED),
        equal_error_rate=equal_error_rate(comparisons),
        smallest_supported_fmr=rule_of_three(len(comparisons.impostor)),
        people=int((comparisons.faces > 0).sum()),
        faces=int(comparisons.faces.sum()),
        curve=det_curve(comparisons),
        groups=_by_group(comparisons, threshold, target, groups or {}),
        warnings=_warnings(comparisons, target, groups or {}),
    )


def threshold_at(comparisons: Comparisons, target: float) -> float:
    """The lowest threshold at which at most the target's share of impostor pairs match.

    It lies midway between the last pair that may match and the first that may not, so that rounding
    in another runtime changes neither.
    """
    allowed = int(target * len(comparisons.impostor) / _ROUNDING)
    if allowed >= len(comparisons.impostor):
        return float(comparisons.impostor[-1])
    first_refused = comparisons.impostor[allowed]
    lowest = np.nextafter(first_refused, np.float32(2))
    above = comparisons.impostor[: comparisons.false_matches(lowest)]
    if not len(above):
        return float(lowest)
    middle = np.float32((float(first_refused) + float(above[-1])) / 2)
    return float(max(middle, lowest))


def equal_error_rate(comparisons: Comparisons) -> float:
    """The rate at which FMR equals FNMR; between two steps, the mean at the nearest one."""
    thresholds = np.unique(np.concatenate([comparisons.genuine, comparisons.impostor]))
    fnmr = np.searchsorted(comparisons.genuine, thresholds) / len(comparisons.genuine)
    false_matches = np.searchsorted(-comparisons.impostor, -thresholds, side="right")
    fmr = false_matches / len(comparisons.impostor)
    nearest = int(np.argmin(np.abs(fnmr - fmr)))
    return float((fnmr[nearest] + fmr[nearest]) / 2)


def det_curve(comparisons: Comparisons, points: int = _CURVE_POINTS) -> tuple[DetPoint, ...]:
    """The curve from the strictest threshold to the laxest, with points spaced in log FMR."""
    ranks = np.unique(np.geomspace(1, len(comparisons.impostor), points).astype(int)) - 1
    thresholds = np.unique(comparisons.impostor[ranks])[::-1].tolist()
    return tuple(
        DetPoint(
            threshold=threshold, fmr=comparisons.fmr(threshold), fnmr=comparisons.fnmr(threshold)
        )
        for threshold in thresholds
    )


def _fmr(comparisons: Comparisons, threshold: float, bootstrap: Interval) -> Rate:
    return _rate(comparisons.false_matches(threshold), len(comparisons.impostor), bootstrap)


def _fnmr(comparisons: Comparisons, threshold: float, bootstrap: Interval) -> Rate:
    return _rate(comparisons.false_non_matches(threshold), len(comparisons.genuine), bootstrap)


def _rate(errors: int, pairs: int, bootstrap: Interval) -> Rate:
    exact = clopper_pearson(errors, pairs)
    return Rate(
        rate=errors / pairs if pairs else None,
        errors=errors,
        pairs=pairs,
        interval=(min(exact[0], bootstrap[0]), max(exact[1], bootstrap[1])),
        independent=exact,
    )


def _by_group(
    comparisons: Comparisons, threshold: float, target: float, groups: Mapping[str, str]
) -> tuple[GroupRates, ...]:
    rows = []
    for group in sorted(set(groups.values())):
        members = np.array([groups.get(name) == group for name in comparisons.people])
        within = comparisons.among(members)
        intervals = (
            bootstrap_intervals(within, threshold, target, _SEED)
            if len(within.impostor)
            else UNKNOWN
        )
        rows.append(
            GroupRates(
                group=group,
                people=int((within.faces > 0).sum()),
                fmr=_fmr(within, threshold, intervals.fmr),
                fnmr=_fnmr(within, threshold, intervals.fnmr),
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
    warnings = (
        (
            expected < _ENOUGH_ERRORS,
            f"only {expected:.0f} false matches are expected at this rate; with {_ENOUGH_ERRORS} "
            f"({math.ceil(_ENOUGH_ERRORS / target):,} pairs) it is known to within a third",
        ),
        (
            people < _FEW_PEOPLE,
            f"{people} people are few; mind the intervals, and calibrate on more",
        ),
        (single > 0, f"{single} people have one usable face, and are in impostor pairs only"),
        (ungrouped > 0, f"{ungrouped} people have no group, and are in none of the groups' rates"),
    )
    return tuple(text for applies, text in warnings if applies)
