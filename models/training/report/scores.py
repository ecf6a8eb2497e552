"""How good a classifier is, from its probabilities alone: numbers for the result of a training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.training.training_result import ClassReport, SplitMetrics

Probabilities = npt.NDArray[np.float32]
"""(pictures, classes); each row sums to 1."""

Truth = npt.NDArray[np.int64]
"""(pictures,): the index of each picture's class."""

Counts = npt.NDArray[np.int64]
"""(classes, classes): a row a true class, a column a predicted one."""

_BINS = 15
_TOP = 5
_TOP_FROM = 2 * _TOP  # among fewer classes the best five are nearly all there are
_SMALLEST = 1e-7  # as Keras clips, so that a loss here equals a loss there


def split_metrics(probabilities: Probabilities, truth: Truth) -> SplitMetrics:
    """The figures of one split.

    Raises:
        ValueError: There are no pictures, or not one row a picture.
    """
    if len(truth) == 0 or len(truth) != len(probabilities):
        raise ValueError(f"{len(truth)} pictures, {len(probabilities)} rows of probabilities")
    counts = confusion(probabilities, truth)
    classes = ClassFigures.of(counts)
    of_truth = np.take_along_axis(probabilities, truth[:, None], axis=1)[:, 0]
    return SplitMetrics(
        pictures=len(truth),
        loss=float(-np.log(np.clip(of_truth.astype(np.float64), _SMALLEST, 1)).mean()),
        accuracy=float(np.trace(counts) / len(truth)),
        top5_accuracy=_top(probabilities, truth) if len(counts) >= _TOP_FROM else None,
        macro_precision=_mean_of_seen(np.nan_to_num(classes.precision), classes.support),
        macro_recall=_mean_of_seen(classes.recall, classes.support),
        macro_f1=_mean_of_seen(classes.f1, classes.support),
        calibration_error=calibration_error(probabilities, truth),
    )


def confusion(probabilities: Probabilities, truth: Truth) -> Counts:
    """How often each class was taken for each."""
    classes = probabilities.shape[1]
    pairs = truth * classes + probabilities.argmax(axis=1)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """Precision, recall, F1 and pictures of each class, (classes,); NaN where undefined."""

    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    f1: npt.NDArray[np.float64]
    support: Counts

    @classmethod
    def of(cls, counts: Counts) -> "ClassFigures":
        """Those of a confusion matrix."""
        hits, called, support = np.diag(counts), counts.sum(axis=0), counts.sum(axis=1)
        return cls(
            precision=_ratio(hits, called),
            recall=_ratio(hits, support),
            f1=_ratio(2 * hits, called + support),
            support=support,
        )


def class_reports(counts: Counts, labels: Sequence[str]) -> list[ClassReport]:
    """One report a class, in the order of the classes."""
    figures = ClassFigures.of(counts)
    return [
        ClassReport(
            label=label,
            precision=_number(figures.precision[index]),
            recall=_number(figures.recall[index]),
            f1=_number(figures.f1[index]),
            support=int(figures.support[index]),
        )
        for index, label in enumerate(labels)
    ]


def calibration_error(probabilities: Probabilities, truth: Truth) -> float:
    """The expected calibration error over 15 bins (Guo et al., 2017, arXiv:1706.04599, eq. 3)."""
    sure = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    bins = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights=right - sure.astype(np.float64), minlength=_BINS)
    return float(min(1.0, np.abs(gaps).sum() / len(truth)))


def most_wrong(probabilities: Probabilities, truth: Truth, most: int) -> list[int]:
    """The pictures that were got wrong with the most conviction, the worst first."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != truth)
    worst = np.argsort(-probabilities[wrong].max(axis=1), kind="stable")
    return [int(index) for index in wrong[worst][:most]]


def _top(probabilities: Probabilities, truth: Truth) -> float:
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :_TOP]
    return float((best == truth[:, None]).any(axis=1).mean())


def _mean_of_seen(values: npt.NDArray[np.float64], support: Counts) -> float:
    return float(values[support > 0].mean())


def _ratio(part: Counts, whole: Counts) -> npt.NDArray[np.float64]:
    nothing = np.full(len(whole), np.nan)
    np.divide(part, whole, out=nothing, where=whole > 0)
    return nothing


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
