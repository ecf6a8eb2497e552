"""The metrics, compared with values calculated by hand by scikit-learn's definitions."""

import numpy as np
import pytest

from models.training.report.scores import (
    calibration_error,
    class_reports,
    confusion,
    most_confident_mistakes,
    split_metrics,
)

# Six images of three classes: one cat predicted as dog, one dog as cat, no horse correct.
TRUTH = np.array([0, 0, 0, 1, 1, 2])
ROWS = np.array(
    [
        [0.9, 0.1, 0.0],
        [0.6, 0.3, 0.1],
        [0.2, 0.7, 0.1],
        [0.1, 0.9, 0.0],
        [0.8, 0.2, 0.0],
        [0.5, 0.4, 0.1],
    ],
    np.float32,
)
LABELS = ["cat", "dog", "horse"]


def test_metrics_of_a_split() -> None:
    metrics = split_metrics(ROWS, TRUTH)
    assert metrics.pictures == 6
    assert metrics.accuracy == pytest.approx(3 / 6)
    expected = -np.log([0.9, 0.6, 0.2, 0.9, 0.2, 0.1]).mean()
    assert metrics.loss == pytest.approx(expected, rel=1e-6)
    assert metrics.macro_precision == pytest.approx((2 / 4 + 1 / 2 + 0) / 3)
    assert metrics.macro_recall == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert metrics.macro_f1 == pytest.approx((4 / 7 + 2 / 4 + 0) / 3)
    assert metrics.top5_accuracy is None


def test_confusion_rows_are_true_classes() -> None:
    assert confusion(ROWS, TRUTH).tolist() == [[2, 1, 0], [1, 1, 0], [1, 0, 0]]


def test_class_without_predictions_has_no_precision() -> None:
    cat, _, horse = class_reports(confusion(ROWS, TRUTH), LABELS)
    assert (cat.precision, cat.support) == (0.5, 3)
    assert (horse.precision, horse.recall, horse.f1, horse.support) == (None, 0.0, 0.0, 1)


def test_class_without_images_is_left_out_of_averages() -> None:
    probabilities = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    metrics = split_metrics(probabilities, np.array([0, 1]))
    assert (metrics.macro_recall, metrics.macro_precision, metrics.macro_f1) == (1, 1, 1)
    assert class_reports(confusion(probabilities, np.array([0, 1])), LABELS)[2].recall is None


def test_top5_is_computed_from_ten_classes_on() -> None:
    probabilities = np.tile(np.linspace(1, 0.1, 10, dtype=np.float32) / 5.5, (4, 1))
    assert split_metrics(probabilities, np.array([0, 4, 5, 9])).top5_accuracy == 0.5


def test_calibration_error_compares_confidence_with_accuracy() -> None:
    confident = np.array([[0.75, 0.25]] * 4, np.float32)
    assert calibration_error(confident, np.array([0, 0, 0, 1])) == pytest.approx(0, abs=1e-6)
    assert calibration_error(confident, np.array([1, 1, 1, 1])) == pytest.approx(0.75)


def test_most_confident_mistake_comes_first() -> None:
    assert most_confident_mistakes(ROWS, TRUTH, 2) == [4, 2]
    assert most_confident_mistakes(ROWS[:2], TRUTH[:2], 2) == []


def test_no_images_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 images"):
        split_metrics(ROWS[:0], TRUTH[:0])
