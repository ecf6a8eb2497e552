"""A degraded real portrait is rejected for the right reason and no other."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from contracts.faces.faces import Quality, QualityReason
from contracts.queue.messages import Pixels
from models.faces.detection.detection import DetectedFace
from models.faces.detection.finder import FaceFinder
from models.faces.detection.pose import Pose
from models.faces.detection.quality import QUALITY_LIMITS, MeshSigns, outside_share, quality_of
from tests.models.faces.images import read

Degrade = Callable[[Pixels, DetectedFace], Pixels]


def smaller(image: Pixels, face: DetectedFace) -> Pixels:
    scale = 0.8 * QUALITY_LIMITS.size / face.face.quality.size
    return np.asarray(
        cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8
    )


def darker(image: Pixels, face: DetectedFace) -> Pixels:
    factor = 0.8 * QUALITY_LIMITS.darkest / face.face.quality.brightness
    return (image * factor).astype(np.uint8)


def brighter(image: Pixels, face: DetectedFace) -> Pixels:
    del face
    return (255 - (255 - image.astype(float)) * 0.2).astype(np.uint8)


def blurred(image: Pixels, face: DetectedFace) -> Pixels:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 0.07 * face.face.quality.size), np.uint8)


def cropped(image: Pixels, face: DetectedFace) -> Pixels:
    """The image without the outer fifth of the face."""
    box = face.face.box
    return np.ascontiguousarray(image[:, : int(box.x + 0.8 * box.width)])


def masked(image: Pixels, face: DetectedFace) -> Pixels:
    """A cloth over mouth and nose."""
    lower = [234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397]
    around = face.mesh[[*lower, 288, 361, 323, 454, 6], :2].astype(np.float32)
    degraded = image.copy()
    cv2.fillPoly(degraded, [cv2.convexHull(around).astype(np.int32)], (150, 190, 220))
    return degraded


def tilted(image: Pixels, face: DetectedFace) -> Pixels:
    del face
    return np.ascontiguousarray(np.rot90(image))


DEGRADED: dict[QualityReason, tuple[Degrade, set[QualityReason]]] = {
    "too_small": (smaller, {"blurred"}),  # a small face is blurred when enlarged
    "too_dark": (darker, {"blurred"}),  # contrast decreases with the light
    "too_bright": (brighter, {"blurred"}),
    "blurred": (blurred, set()),
    "off_frame": (cropped, {"occluded"}),
    "occluded": (masked, set()),
    "extreme_pose": (tilted, set()),
}


@pytest.mark.shared
def test_good_portraits_are_acceptable(finder: FaceFinder, people: list[Path]) -> None:
    for file in people:
        (face,) = finder.find(read(file), 1).faces
        assert face.face.quality.reasons == (), file
        assert face.face.quality.acceptable


@pytest.mark.shared
@pytest.mark.parametrize("reason", DEGRADED)
def test_a_degraded_portrait_is_rejected_for_the_right_reason(
    reason: QualityReason, finder: FaceFinder, people: list[Path]
) -> None:
    degrade, also = DEGRADED[reason]
    rejected = []
    for file in people[:12:2]:
        image = read(file)
        (face,) = finder.find(image, 1).faces
        for found in finder.find(degrade(image, face), 1).faces:
            quality = found.face.quality
            assert set(quality.reasons) <= {reason, *also}, (file, quality)
            assert quality.acceptable == (not quality.reasons)
            rejected.append(reason in quality.reasons)
    assert len(rejected) >= 4, "most degraded faces are still found"
    assert np.mean(rejected) >= 0.8


def quality(**changes: float) -> Quality:
    random = np.random.default_rng(8)
    crop = random.integers(90, 150, (150, 150, 3), np.uint8)
    pose = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0, "scale": 60.0, "error": 0.0} | changes
    return quality_of(crop, Pose(**pose), MeshSigns(presence=25, outside=0))


@pytest.mark.parametrize("angle", ["yaw", "pitch", "roll"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_head_may_turn_up_to_the_limit_in_either_direction(angle: str, sign: int) -> None:
    bound = getattr(QUALITY_LIMITS, angle)
    assert quality(**{angle: sign * (bound - 1)}).acceptable
    assert quality(**{angle: sign * (bound + 1)}).reasons == ("extreme_pose",)


def test_points_beyond_each_border_are_counted() -> None:
    mesh = np.array([(5, 5, 0), (-1, 5, 0), (5, -1, 0), (11, 5, 0), (5, 21, 0)], np.float32)
    assert outside_share(mesh, height=20, width=10) == pytest.approx(0.8)
