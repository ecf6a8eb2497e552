"""How far a face is fit to be recognised, and every bound that decides it."""

from dataclasses import dataclass

import cv2

from contracts.faces import Quality, QualityReason
from contracts.messages import Pixels
from models.faces.found import Points
from models.faces.pose import Pose


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where a face stops being acceptable."""

    size: float = 24
    darkest: float = 45
    brightest: float = 215
    sharpness: float = 40
    yaw: float = 40
    pitch: float = 30
    roll: float = 45
    outside: float = 0.05
    presence: float = 0.9


BOUNDS = Bounds()


@dataclass(frozen=True, slots=True)
class Signs:
    """What is measured of a face beyond what `Quality` tells.

    Attributes:
        presence: How sure the mesh is that there is a face, 0 to 1.
        outside: The share of the mesh's points that lie beyond the picture.
    """

    presence: float
    outside: float


def quality_of(chip: Pixels, pose: Pose, signs: Signs, bounds: Bounds = BOUNDS) -> Quality:
    """The quality of one face.

    Args:
        chip: The face straightened, uint8 (150, 150, 3).
        pose: How the head is held.
        signs: What else was measured.
        bounds: Where to draw the lines.
    """
    luma = cv2.cvtColor(chip, cv2.COLOR_RGB2GRAY)
    brightness = float(luma.mean())
    sharpness = float(cv2.Laplacian(luma, cv2.CV_32F).var())
    found: dict[QualityReason, bool] = {
        "too_small": pose.scale < bounds.size,
        "too_dark": brightness < bounds.darkest,
        "too_bright": brightness > bounds.brightest,
        "blurred": sharpness < bounds.sharpness,
        "extreme_pose": abs(pose.yaw) > bounds.yaw
        or abs(pose.pitch) > bounds.pitch
        or abs(pose.roll) > bounds.roll,
        "off_frame": signs.outside > bounds.outside,
        "occluded": signs.presence < bounds.presence,
    }
    reasons = tuple(reason for reason, holds in found.items() if holds)
    return Quality(
        sharpness=round(sharpness, 1),
        brightness=round(brightness, 1),
        yaw=round(pose.yaw, 1),
        pitch=round(pose.pitch, 1),
        roll=round(pose.roll, 1),
        size=round(pose.scale, 1),
        acceptable=not reasons,
        reasons=reasons,
    )


def outside_share(mesh: Points, height: int, width: int) -> float:
    """The share of a mesh's points that lie beyond a picture of that size."""
    x, y = mesh[:, 0], mesh[:, 1]
    return float(((x < 0) | (y < 0) | (x > width) | (y > height)).mean())
