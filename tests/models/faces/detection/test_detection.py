import numpy as np

from models.faces.detection.anchors import anchors
from models.faces.detection.detection import Detections
from models.faces.detection.detector import FULL_RANGE, SHORT_RANGE


def detections(*rows: tuple[float, float, float, float, float]) -> Detections:
    """(left, top, right, bottom, score); the points are in the upper left corner."""
    values = np.array(rows, np.float32).reshape(-1, 5)
    points = np.repeat(values[:, None, :2], 6, axis=1)
    return Detections(values[:, :4], values[:, 4], points)


def test_the_centers_are_those_of_the_published_graphs() -> None:
    far = anchors(192, FULL_RANGE.grids)
    assert far.shape == (48 * 48, 2)
    np.testing.assert_array_equal(far[:2], [(2, 2), (6, 2)])
    near = anchors(128, SHORT_RANGE.grids)
    assert near.shape == (896, 2)
    np.testing.assert_array_equal(near[:3], [(4, 4), (4, 4), (12, 4)])
    np.testing.assert_array_equal(near[512:518], [(8, 8)] * 6)


def test_duplicates_are_merged_weighted_by_score() -> None:
    found = detections((0, 0, 10, 10, 0.6), (1, 0, 11, 10, 0.9), (50, 50, 60, 60, 0.7))
    merged = found.merge(0.3)
    np.testing.assert_allclose(merged.boxes, [(0.6, 0, 10.6, 10), (50, 50, 60, 60)], atol=1e-5)
    np.testing.assert_allclose(merged.scores, [0.9, 0.7], atol=1e-6)
    np.testing.assert_allclose(merged.points[0], [(0.6, 0)] * 6, atol=1e-5)


def test_neighbors_are_not_merged() -> None:
    assert len(detections((0, 0, 10, 10, 0.9), (6, 0, 16, 10, 0.8)).merge(0.3)) == 2


def test_empty_detections_stay_empty() -> None:
    none = Detections.concatenate([])
    assert len(none.merge(0.3).transform(scale=2, left=1, top=1)) == 0
    assert len(Detections.concatenate([none, detections((0, 0, 1, 1, 0.5))])) == 1


def test_detections_of_a_tile_are_transformed_to_the_whole_image() -> None:
    moved = detections((1, 2, 3, 4, 0.5)).transform(scale=2, left=10, top=20)
    np.testing.assert_array_equal(moved.boxes, [(12, 24, 16, 28)])
    np.testing.assert_array_equal(moved.points[0, 0], (12, 24))
