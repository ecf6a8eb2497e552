"""How far a face is fit to be recognised, and every bound that decides it."""

from dataclasses import dataclass

import cv2

from contracts.faces.faces import Quality, QualityReason
from contracts.queue.messages import Pixels
from models.faces.detection.detection import Points
from models.faces.detection.pose import Pose


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where a face stops being acceptable.

    Measured on 33 portraits by what each fault does to the embedding: the cosine between the face
    and its spoilt copy, where two good pictures of one person have 0.97 in the mean, and two
    people 0.82. A copy at 0.98 costs little, one at 0.96 as much as another day does.

    Attributes:
        size: Pixels between the eyes. 20 gives 0.991, 16 gives 0.985, 12 gives 0.974.
        darkest: Mean luma of the chip. Below it a camera's noise is a good part of the picture.
        brightest: Above it skin has lost its shades.
        sharpness: Variance of the Laplacian of the chip. Blurred by 3 % of the distance between
            the eyes a face has 22 and gives 0.987; by 6 %, 6 and 0.962. Sharp ones have 60 and
            more, small ones of the least size 50.
        yaw: Degrees to either side; beyond it the far eye is hidden by the nose.
        pitch: Degrees up or down.
        roll: Degrees to either side. It is straightened; beyond this faces are overlooked.
        outside: The share of the mesh's points beyond the picture.
        presence: The mesh's logit. Of 157 clear faces it is 16 or more; a covered mouth and nose
            leave 8 (0.92), a covered half 10 (0.95). Glasses and a hand on the chin are not seen.
    """

    size: float = 20
    darkest: float = 40
    brightest: float = 220
    sharpness: float = 15
    yaw: float = 35
    pitch: float = 30
    roll: float = 60
    outside: float = 0.05
    presence: float = 13


BOUNDS = Bounds()


@dataclass(frozen=True, slots=True)
class Signs:
    """What is measured of a face beyond what `Quality` tells.

    Attributes:
        presence: How sure the mesh is that there is a whole face, as a logit.
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
