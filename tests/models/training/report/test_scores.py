"""The figures, against hand calculation and against scikit-learn's definitions."""

import numpy as np
import pytest

from models.training.report.scores import (
    calibration_error,
    class_reports,
    confusion,
    most_wrong,
    split_metrics,
)

# Six pictures of three classes: one cat taken for a dog, one dog for a cat, no horse ever right.
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


def test_the_figures_of_a_split_are_those_of_the_textbook() -> None:
    found = split_metrics(ROWS, TRUTH)
    assert found.pictures == 6
    assert found.accuracy == pytest.approx(3 / 6)
    expected = -np.log([0.9, 0.6, 0.2, 0.9, 0.2, 0.1]).mean()
    assert found.loss == pytest.approx(expected, rel=1e-6)
    assert found.macro_precision == pytest.approx((2 / 4 + 1 / 2 + 0) / 3)
    assert found.macro_recall == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert found.macro_f1 == pytest.approx((4 / 7 + 2 / 4 + 0) / 3)
    assert found.top5_accuracy is None


def test_rows_are_true_and_columns_predicted() -> None:
    assert confusion(ROWS, TRUTH).tolist() == [[2, 1, 0], [1, 1, 0], [1, 0, 0]]


def test_a_class_that_was_never_called_has_no_precision() -> None:
    cat, _, horse = class_reports(confusion(ROWS, TRUTH), LABELS)
    assert (cat.precision, cat.support) == (0.5, 3)
    assert (horse.precision, horse.recall, horse.f1, horse.support) == (None, 0.0, 0.0, 1)


def test_a_class_without_pictures_does_not_pull_the_mean_down() -> None:
    probabilities = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    found = split_metrics(probabilities, np.array([0, 1]))
    assert (found.macro_recall, found.macro_precision, found.macro_f1) == (1, 1, 1)
    assert class_reports(confusion(probabilities, np.array([0, 1])), LABELS)[2].recall is None


def test_the_best_five_count_from_ten_classes_on() -> None:
    probabilities = np.tile(np.linspace(1, 0.1, 10, dtype=np.float32) / 5.5, (4, 1))
    assert split_metrics(probabilities, np.array([0, 4, 5, 9])).top5_accuracy == 0.5


def test_who_is_right_as_often_as_he_says_is_calibrated() -> None:
    sure = np.array([[0.75, 0.25]] * 4, np.float32)
    assert calibration_error(sure, np.array([0, 0, 0, 1])) == pytest.approx(0, abs=1e-6)
    assert calibration_error(sure, np.array([1, 1, 1, 1])) == pytest.approx(0.75)


def test_the_surest_mistake_comes_first() -> None:
    assert most_wrong(ROWS, TRUTH, 2) == [4, 2]
    assert most_wrong(ROWS[:2], TRUTH[:2], 2) == []


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="0 pictures"):
        split_metrics(ROWS[:0], TRUTH[:0])
