import math
from pathlib import Path

import numpy as np
import pytest

from models.faces.detection.finder import FaceFinder
from models.faces.detection.landmarks import RIGID
from models.faces.detection.pose import _canonical_head, pose_of
from tests.models.faces.images import read


def turned(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """The canonical head, rotated about its own axes: roll first, then pitch, then yaw."""
    y, p, r = (math.radians(angle) for angle in (yaw, pitch, roll))
    about_y = np.array([[math.cos(y), 0, -math.sin(y)], [0, 1, 0], [math.sin(y), 0, math.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(p), math.sin(p)], [0, -math.sin(p), math.cos(p)]])
    about_z = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    mesh = np.zeros((468, 3), np.float32)
    mesh[list(RIGID)] = 80 * _canonical_head() @ (about_y @ about_x @ about_z).T + (200, 150, 0)
    return mesh


@pytest.mark.parametrize("yaw", [-60, 0, 35])
@pytest.mark.parametrize("pitch", [-30, 0, 20])
@pytest.mark.parametrize("roll", [-90, 0, 15, 170])
def test_the_pose_of_a_rotated_head(yaw: float, pitch: float, roll: float) -> None:
    found = pose_of(turned(yaw, pitch, roll))
    np.testing.assert_allclose((found.yaw, found.pitch, found.roll), (yaw, pitch, roll), atol=0.01)
    assert found.scale == pytest.approx(80, rel=1e-4)
    assert found.error < 1e-4


def test_the_signs_match_the_contract() -> None:
    nose = 4
    straight = turned(0, 0, 0)
    # The own left is right in the image; up means smaller y; clockwise lowers the left eye.
    assert turned(20, 0, 0)[nose, 0] > straight[nose, 0]
    assert turned(0, 20, 0)[nose, 1] < straight[nose, 1]
    assert turned(0, 0, 20)[263, 1] > straight[263, 1]


@pytest.mark.shared
def test_a_mirrored_image_has_the_opposite_yaw_and_roll(
    finder: FaceFinder, people: list[Path]
) -> None:
    seen = 0
    for file in people:
        image = read(file)
        (face,) = finder.find(image, 1).faces
        (mirrored,) = finder.find(np.ascontiguousarray(image[:, ::-1]), 1).faces
        one, other = face.face.quality, mirrored.face.quality
        assert one.yaw == pytest.approx(-other.yaw, abs=5)
        assert one.pitch == pytest.approx(other.pitch, abs=5)
        assert one.roll == pytest.approx(-other.roll, abs=5)
        seen += abs(one.yaw - other.yaw) > 10
    assert seen >= 5, "otherwise no head would be turned"


@pytest.mark.shared
def test_an_image_rotated_clockwise_tilts_the_head_clockwise(
    finder: FaceFinder, shared: Path
) -> None:
    image = read(shared / "data/face-pairs/person01/img1.jpg")
    (before,) = finder.find(image, 1).faces
    (after,) = finder.find(np.ascontiguousarray(np.rot90(image, -1)), 1).faces
    difference = (after.face.quality.roll - before.face.quality.roll) % 360
    assert difference == pytest.approx(90, abs=6)
