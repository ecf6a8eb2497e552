"""How sure the rates of a calibration are, told by its people and not by its pairs.

Ten pictures of twenty people make 18,000 impostor pairs, but one person who resembles another
shows in hundreds of them. So people are drawn, with replacement, and each drawing is measured as
if it were the dataset (the subsets bootstrap: R. Bolle, N. Ratha, S. Pankanti, "Error analysis of
pattern recognition systems", CVIU 93, 2004). A drawing is a weight for each person: a genuine pair
counts as often as its person was drawn, an impostor pair as often as the two were drawn together,
and nobody is paired with their own copy.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from contracts.faces.calibration import HeldOut
from models.faces.calibration.comparisons import Comparisons, Weights
from models.faces.calibration.intervals import Interval

DRAWS = 1000
_HALVINGS = 400
_TAIL = 2.5  # percent on either side
_SPARE = 20  # how many times the target's share of the impostors a drawing may have to look at
_LEAST = 2000


@dataclass(frozen=True, slots=True)
class Spread:
    """95 % intervals over the drawings."""

    threshold: Interval
    fmr: Interval
    fnmr: Interval


def spread(comparisons: Comparisons, threshold: float, target: float, seed: int) -> Spread:
    """How the rates at a threshold, and the threshold for a rate, vary with the people.

    Args:
        comparisons: All pairs.
        threshold: Whose rates are judged.
        target: The false-match rate at which a drawing's own threshold is chosen.
        seed: Of the drawings.
    """
    closest = _Closest.of(comparisons, target)
    found: list[tuple[float, float, float]] = []
    for weights in _drawings(len(comparisons.people), DRAWS, seed):
        own = closest.threshold(weights, target)
        if own is not None:
            rates = weighted_rates(comparisons, weights, threshold)
            found.append((own, *rates))
    if not found:
        return Spread((-1.0, 1.0), (0.0, 1.0), (0.0, 1.0))
    columns = np.array(found)
    return Spread(*(_interval(columns[:, at]) for at in range(3)))


def held_out(comparisons: Comparisons, target: float, seed: int) -> HeldOut | None:
    """What thresholds chosen on half of the people do to the other half; None with under four."""
    people = len(comparisons.people)
    if people < 4:
        return None
    closest = _Closest.of(comparisons, target)
    chance = np.random.default_rng(seed)
    found: list[tuple[float, float]] = []
    for _ in range(_HALVINGS):
        chosen = np.zeros(people)
        chosen[chance.permutation(people)[: people // 2]] = 1
        own = closest.threshold(chosen, target)
        if own is not None:
            found.append(weighted_rates(comparisons, 1 - chosen, own))
    rates = np.array(found)
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
    comparisons: Comparisons, weights: Weights, threshold: float
) -> tuple[float, float]:
    """FMR and FNMR where people count by weights; NaN where no pair counts."""
    left, right = comparisons.impostor_of[: comparisons.confused(threshold)].T
    missed = comparisons.genuine_of[: comparisons.missed(threshold)]
    impostors = _impostor_total(comparisons, weights)
    genuine = float(weights[comparisons.genuine_of].sum())
    confused = float((weights[left] * weights[right]).sum())
    return (
        confused / impostors if impostors else float("nan"),
        float(weights[missed].sum()) / genuine if genuine else float("nan"),
    )


@dataclass(frozen=True, slots=True)
class _Closest:
    """The most alike impostor pairs: all that a threshold for a small rate has to look at."""

    comparisons: Comparisons
    count: int

    @classmethod
    def of(cls, comparisons: Comparisons, target: float) -> "_Closest":
        enough = int(_SPARE * target * len(comparisons.impostor))
        return cls(comparisons, min(len(comparisons.impostor), max(_LEAST, enough)))

    def threshold(self, weights: Weights, target: float) -> float | None:
        """The lowest similarity above which at most the target's share lies; None without pairs."""
        total = _impostor_total(self.comparisons, weights)
        if not total:
            return None
        left, right = self.comparisons.impostor_of[: self.count].T
        reached = np.cumsum(weights[left] * weights[right]) > target * total * (1 + 1e-12)
        scores = self.comparisons.impostor[: self.count]
        # The first pair too many must not match any more.
        return float(np.nextafter(scores[int(np.argmax(reached))] if reached.any() else scores[-1],
                                  np.float32(2)))  # fmt: skip


def _impostor_total(comparisons: Comparisons, weights: Weights) -> float:
    """The weight of all impostor pairs: products of different people's faces, each once."""
    faces = weights * comparisons.faces
    return float((faces.sum() ** 2 - (faces**2).sum()) / 2)


def _drawings(people: int, count: int, seed: int) -> Iterator[Weights]:
    chance = np.random.default_rng(seed)
    for _ in range(count):
        drawn = chance.integers(0, people, people)
        yield np.bincount(drawn, minlength=people).astype(np.float64)


def _interval(values: Weights) -> Interval:
    low, high = np.nanpercentile(values, (_TAIL, 100 - _TAIL))
    return float(low), float(high)
