import numpy as np
import pytest

from models.faces.detection.similarity import fit


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("count", [3, 5, 40])
def test_rotation_scale_and_translation_are_recovered(dimensions: int, count: int) -> None:
    random = np.random.default_rng(count)
    rotation, _ = np.linalg.qr(random.normal(size=(dimensions, dimensions)))
    rotation[:, 0] *= np.sign(np.linalg.det(rotation))
    points = random.normal(size=(count, dimensions))
    found = fit(points, 3.5 * points @ rotation.T + 7)
    np.testing.assert_allclose(found.rotation, rotation, atol=1e-9)
    np.testing.assert_allclose(found.translation, np.full(dimensions, 7), atol=1e-9)
    assert found.scale == pytest.approx(3.5)
    assert found.error == pytest.approx(0, abs=1e-9)


def test_a_reflection_is_never_fitted() -> None:
    points = np.random.default_rng(8).normal(size=(20, 3))
    found = fit(points, points * (-1, 1, 1))
    assert np.linalg.det(found.rotation) == pytest.approx(1)
    assert found.error > 0.5


def test_noise_remains_as_error() -> None:
    random = np.random.default_rng(8)
    points = random.normal(size=(400, 2))
    found = fit(points, points + random.normal(scale=0.01, size=points.shape))
    assert found.scale == pytest.approx(1, abs=0.01)
    assert 0.012 < found.error < 0.016
