"""Every reason is given to a real portrait that was spoilt in that way, and to no other."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from contracts.faces.faces import Quality, QualityReason
from contracts.queue.messages import Pixels
from models.faces.detection.detection import FoundFace
from models.faces.detection.finder import FaceFinder
from models.faces.detection.pose import Pose
from models.faces.detection.quality import BOUNDS, Signs, outside_share, quality_of
from tests.models.faces.pictures import read

Spoil = Callable[[Pixels, FoundFace], Pixels]


def smaller(picture: Pixels, face: FoundFace) -> Pixels:
    scale = 0.8 * BOUNDS.size / face.face.quality.size
    return np.asarray(
        cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8
    )


def darker(picture: Pixels, face: FoundFace) -> Pixels:
    factor = 0.8 * BOUNDS.darkest / face.face.quality.brightness
    return (picture * factor).astype(np.uint8)


def brighter(picture: Pixels, face: FoundFace) -> Pixels:
    del face
    return (255 - (255 - picture.astype(float)) * 0.2).astype(np.uint8)


def blurred(picture: Pixels, face: FoundFace) -> Pixels:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.07 * face.face.quality.size), np.uint8)


def cropped(picture: Pixels, face: FoundFace) -> Pixels:
    """Without the outer fifth of the face."""
    box = face.face.box
    return np.ascontiguousarray(picture[:, : int(box.x + 0.8 * box.width)])


def masked(picture: Pixels, face: FoundFace) -> Pixels:
    """A cloth over mouth and nose."""
    lower = [234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397]
    around = face.mesh[[*lower, 288, 361, 323, 454, 6], :2].astype(np.float32)
    spoilt = picture.copy()
    cv2.fillPoly(spoilt, [cv2.convexHull(around).astype(np.int32)], (150, 190, 220))
    return spoilt


def tilted(picture: Pixels, face: FoundFace) -> Pixels:
    del face
    return np.ascontiguousarray(np.rot90(picture))


SPOILT: dict[QualityReason, tuple[Spoil, set[QualityReason]]] = {
    "too_small": (smaller, {"blurred"}),  # what is small is blurred once it is enlarged
    "too_dark": (darker, {"blurred"}),  # contrast goes with the light
    "too_bright": (brighter, {"blurred"}),
    "blurred": (blurred, set()),
    "off_frame": (cropped, {"occluded"}),
    "occluded": (masked, set()),
    "extreme_pose": (tilted, set()),
}


@pytest.mark.shared
def test_good_portraits_are_acceptable(finder: FaceFinder, people: list[Path]) -> None:
    for file in people:
        (face,) = finder.look(read(file), 1).faces
        assert face.face.quality.reasons == (), file
        assert face.face.quality.acceptable


@pytest.mark.shared
@pytest.mark.parametrize("reason", SPOILT)
def test_a_spoilt_portrait_is_refused_for_its_reason(
    reason: QualityReason, finder: FaceFinder, people: list[Path]
) -> None:
    spoil, beside = SPOILT[reason]
    given = []
    for file in people[:12:2]:
        picture = read(file)
        (face,) = finder.look(picture, 1).faces
        for found in finder.look(spoil(picture, face), 1).faces:
            quality = found.face.quality
            assert set(quality.reasons) <= {reason, *beside}, (file, quality)
            assert quality.acceptable == (not quality.reasons)
            given.append(reason in quality.reasons)
    assert len(given) >= 4, "most spoilt faces are still found"
    assert np.mean(given) >= 0.8


def quality(**changes: float) -> Quality:
    random = np.random.default_rng(8)
    chip = random.integers(90, 150, (150, 150, 3), np.uint8)
    pose = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0, "scale": 60.0, "error": 0.0} | changes
    return quality_of(chip, Pose(**pose), Signs(presence=25, outside=0))


@pytest.mark.parametrize("angle", ["yaw", "pitch", "roll"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_head_may_turn_so_far_to_either_side(angle: str, sign: int) -> None:
    bound = getattr(BOUNDS, angle)
    assert quality(**{angle: sign * (bound - 1)}).acceptable
    assert quality(**{angle: sign * (bound + 1)}).reasons == ("extreme_pose",)


def test_points_beyond_each_border_count() -> None:
    mesh = np.array([(5, 5, 0), (-1, 5, 0), (5, -1, 0), (11, 5, 0), (5, 21, 0)], np.float32)
    assert outside_share(mesh, height=20, width=10) == pytest.approx(0.8)
