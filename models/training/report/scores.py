"""Metrics of a classifier, computed from its probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.training.training_result import ClassReport, SplitMetrics

Probabilities = npt.NDArray[np.float32]
"""(images, classes); each row sums to 1."""

Truth = npt.NDArray[np.int64]
"""(images,): the index of each image's class."""

Counts = npt.NDArray[np.int64]
"""(classes, classes): one row per true class, one column per predicted class."""

_BINS = 15
_TOP = 5
_MIN_CLASSES_FOR_TOP = 2 * _TOP  # with fewer classes, top-5 accuracy says little
_EPSILON = 1e-7  # the same as in Keras, so that the losses are equal


def split_metrics(probabilities: Probabilities, truth: Truth) -> SplitMetrics:
    """The metrics of one split.

    Raises:
        ValueError: There are no images, or the number of rows differs.
    """
    if len(truth) == 0 or len(truth) != len(probabilities):
        raise ValueError(f"{len(truth)} images, {len(probabilities)} rows of probabilities")
    counts = confusion(probabilities, truth)
    classes = ClassScores.of(counts)
    of_truth = np.take_along_axis(probabilities, truth[:, None], axis=1)[:, 0]
    return SplitMetrics(
        pictures=len(truth),
        loss=float(-np.log(np.clip(of_truth.astype(np.float64), _EPSILON, 1)).mean()),
        accuracy=float(np.trace(counts) / len(truth)),
        top5_accuracy=_top(probabilities, truth) if len(counts) >= _MIN_CLASSES_FOR_TOP else None,
        macro_precision=_mean_of_present(np.nan_to_num(classes.precision), classes.support),
        macro_recall=_mean_of_present(classes.recall, classes.support),
        macro_f1=_mean_of_present(classes.f1, classes.support),
        calibration_error=calibration_error(probabilities, truth),
    )


def confusion(probabilities: Probabilities, truth: Truth) -> Counts:
    """The confusion matrix."""
    classes = probabilities.shape[1]
    pairs = truth * classes + probabilities.argmax(axis=1)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Precision, recall, F1 and number of images of each class, (classes,); NaN if undefined."""

    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    f1: npt.NDArray[np.float64]
    support: Counts

    @classmethod
    def of(cls, counts: Counts) -> "ClassScores":
        """Compute them from a confusion matrix."""
        hits, predicted, support = np.diag(counts), counts.sum(axis=0), counts.sum(axis=1)
        return cls(
            precision=_ratio(hits, predicted),
            recall=_ratio(hits, support),
            f1=_ratio(2 * hits, predicted + support),
            support=support,
        )


def class_reports(counts: Counts, labels: Sequence[str]) -> list[ClassReport]:
    """One report per class, in the order of the classes."""
    scores = ClassScores.of(counts)
    return [
        ClassReport(
            label=label,
            precision=_number(scores.precision[index]),
            recall=_number(scores.recall[index]),
            f1=_number(scores.f1[index]),
            support=int(scores.support[index]),
        )
        for index, label in enumerate(labels)
    ]


def calibration_error(probabilities: Probabilities, truth: Truth) -> float:
    """The expected calibration error over 15 bins (Guo et al., 2017, arXiv:1706.04599, eq. 3)."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == truth
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence.astype(np.float64), minlength=_BINS)
    return float(min(1.0, np.abs(gaps).sum() / len(truth)))


def most_confident_mistakes(probabilities: Probabilities, truth: Truth, limit: int) -> list[int]:
    """Indices of the wrong predictions with the highest probabilities, the highest first."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != truth)
    worst = np.argsort(-probabilities.max(axis=1)[wrong], kind="stable")
    return [int(index) for index in wrong[worst][:limit]]


def _top(probabilities: Probabilities, truth: Truth) -> float:
    """The share of images for which fewer than five classes come before the true one.

    Sorting would take several times the memory of the probabilities.
    """
    of_truth = np.take_along_axis(probabilities, truth[:, None], axis=1)
    earlier = np.arange(probabilities.shape[1]) < truth[:, None]
    before = (probabilities > of_truth).sum(axis=1)
    before += ((probabilities == of_truth) & earlier).sum(axis=1)
    return float((before < _TOP).mean())


def _mean_of_present(values: npt.NDArray[np.float64], support: Counts) -> float:
    return float(values[support > 0].mean())


def _ratio(part: Counts, whole: Counts) -> npt.NDArray[np.float64]:
    ratio = np.full(len(whole), np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
