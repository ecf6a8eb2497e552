import numpy as np
import pytest

from models.faces.detection.similarity import fit


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("count", [3, 5, 40])
def test_turn_scale_and_shift_are_found_again(dimensions: int, count: int) -> None:
    random = np.random.default_rng(count)
    turn, _ = np.linalg.qr(random.normal(size=(dimensions, dimensions)))
    turn[:, 0] *= np.sign(np.linalg.det(turn))
    points = random.normal(size=(count, dimensions))
    found = fit(points, 3.5 * points @ turn.T + 7)
    np.testing.assert_allclose(found.turn, turn, atol=1e-9)
    np.testing.assert_allclose(found.shift, np.full(dimensions, 7), atol=1e-9)
    assert found.scale == pytest.approx(3.5)
    assert found.error == pytest.approx(0, abs=1e-9)


def test_a_mirror_picture_is_never_matched_by_mirroring() -> None:
    points = np.random.default_rng(8).normal(size=(20, 3))
    found = fit(points, points * (-1, 1, 1))
    assert np.linalg.det(found.turn) == pytest.approx(1)
    assert found.error > 0.5


def test_noise_is_left_over() -> None:
    random = np.random.default_rng(8)
    points = random.normal(size=(400, 2))
    found = fit(points, points + random.normal(scale=0.01, size=points.shape))
    assert found.scale == pytest.approx(1, abs=0.01)
    assert 0.012 < found.error < 0.016
