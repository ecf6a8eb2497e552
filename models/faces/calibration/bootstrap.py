"""Uncertainty of the error rates of a calibration, by resampling people rather than pairs.

Ten images of twenty people make 18,000 impostor pairs, but one person who resembles another affects
hundreds of them. So people are drawn with replacement, and each sample is measured like the dataset
(the subsets bootstrap: R. Bolle, N. Ratha, S. Pankanti, "Error analysis of pattern recognition
systems", CVIU 93, 2004). A sample is a weight for each person: a genuine pair counts as often as
its person was drawn, an impostor pair as often as the two were drawn together, and a person is
never paired with a copy of themselves.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from contracts.faces.calibration import HeldOut
from models.faces.calibration.comparisons import Comparisons, Float64Array
from models.faces.calibration.intervals import Interval

SAMPLES = 1000
_HALVINGS = 400
_TAIL = 2.5  # percent on either side
# Impostor pairs that a sample's threshold may depend on, as a multiple of the target's share.
_MARGIN = 20
_MIN_PAIRS = 2000


@dataclass(frozen=True, slots=True)
class BootstrapIntervals:
    """95% intervals over the samples."""

    threshold: Interval
    fmr: Interval
    fnmr: Interval


UNKNOWN = BootstrapIntervals((-1.0, 1.0), (0.0, 1.0), (0.0, 1.0))
"""Without pairs, every value is possible."""


def bootstrap_intervals(
    comparisons: Comparisons, threshold: float, target: float, seed: int
) -> BootstrapIntervals:
    """How the rates at a threshold, and the threshold for a rate, vary with the people.

    Args:
        threshold: The threshold whose rates are measured.
        target: The false match rate for which each sample chooses its own threshold.
    """
    closest = _ClosestImpostors.of(comparisons, target)
    results: list[tuple[float, float, float]] = []
    for weights in _samples(len(comparisons.people), SAMPLES, seed):
        own_threshold = closest.threshold(weights, target)
        if own_threshold is not None:
            results.append((own_threshold, *weighted_rates(comparisons, weights, threshold)))
    if not results:
        return UNKNOWN
    columns = np.array(results)
    return BootstrapIntervals(*(_interval(columns[:, column]) for column in range(3)))


def held_out(comparisons: Comparisons, target: float, seed: int) -> HeldOut | None:
    """Error rates on half of the people of thresholds from the other half; None below four."""
    people = len(comparisons.people)
    if people < 4:
        return None
    closest = _ClosestImpostors.of(comparisons, target)
    rng = np.random.default_rng(seed)
    results: list[tuple[float, float]] = []
    for _ in range(_HALVINGS):
        chosen = np.zeros(people)
        chosen[rng.permutation(people)[: people // 2]] = 1
        threshold = closest.threshold(chosen, target)
        if threshold is not None:
            results.append(weighted_rates(comparisons, 1 - chosen, threshold))
    rates = np.array(results)
    rates = rates[~np.isnan(rates).any(axis=1)] if len(rates) else rates
    if not len(rates):
        return None
    return HeldOut(
        fmr=float(np.median(rates[:, 0])),
        fmr_interval=_interval(rates[:, 0]),
        fnmr=float(np.median(rates[:, 1])),
        fnmr_interval=_interval(rates[:, 1]),
        halvings=len(rates),
    )


def weighted_rates(
    comparisons: Comparisons, weights: Float64Array, threshold: float
) -> tuple[float, float]:
    """FMR and FNMR with weighted people; NaN if no pair counts."""
    left, right = comparisons.impostor_of[: comparisons.false_matches(threshold)].T
    non_matching = comparisons.genuine_of[: comparisons.false_non_matches(threshold)]
    impostors = _impostor_weight(comparisons, weights)
    genuine = float(weights[comparisons.genuine_of].sum())
    matching = float((weights[left] * weights[right]).sum())
    return (
        matching / impostors if impostors else float("nan"),
        float(weights[non_matching].sum()) / genuine if genuine else float("nan"),
    )


@dataclass(frozen=True, slots=True)
class _ClosestImpostors:
    """The most similar impostor pairs, on which a threshold for a small rate depends."""

    comparisons: Comparisons
    count: int

    @classmethod
    def of(cls, comparisons: Comparisons, target: float) -> "_ClosestImpostors":
        enough = int(_MARGIN * target * len(comparisons.impostor))
        return cls(comparisons, min(len(comparisons.impostor), max(_MIN_PAIRS, enough)))

    def threshold(self, weights: Float64Array, target: float) -> float | None:
        """The lowest threshold that at most the target's share reaches; None without pairs."""
        total = _impostor_weight(self.comparisons, weights)
        if not total:
            return None
        left, right = self.comparisons.impostor_of[: self.count].T
        exceeded = np.cumsum(weights[left] * weights[right]) > target * total * (1 + 1e-12)
        scores = self.comparisons.impostor[: self.count]
        # The first pair beyond the share must not match any more.
        score = scores[int(np.argmax(exceeded))] if exceeded.any() else scores[-1]
        return float(np.nextafter(score, np.float32(2)))


def _impostor_weight(comparisons: Comparisons, weights: Float64Array) -> float:
    """The weight of all impostor pairs: products of different people's faces, each once."""
    faces = weights * comparisons.faces
    return float((faces.sum() ** 2 - (faces**2).sum()) / 2)


def _samples(people: int, count: int, seed: int) -> Iterator[Float64Array]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        drawn = rng.integers(0, people, people)
        yield np.bincount(drawn, minlength=people).astype(np.float64)


def _interval(values: Float64Array) -> Interval:
    low, high = np.nanpercentile(values, (_TAIL, 100 - _TAIL))
    return float(low), float(high)
