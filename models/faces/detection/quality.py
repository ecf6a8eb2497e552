"""Whether a face is good enough to be recognized, and every limit that decides it."""

from dataclasses import dataclass

import cv2

from contracts.faces.faces import Quality, QualityReason
from contracts.queue.messages import Pixels
from models.faces.detection.detection import Points
from models.faces.detection.pose import Pose


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """The limits of an acceptable face.

    Measured on 33 portraits by the effect of each fault on the embedding: the cosine between the
    face and a degraded copy. Two good images of one person have 0.97 on average, images of two
    people 0.82. A copy at 0.98 costs little; one at 0.96 as much as an image from another day.

    Attributes:
        size: Pixels between the eyes. 20 gives 0.991, 16 gives 0.985, 12 gives 0.974.
        darkest: Mean luma of the crop. Below it, camera noise dominates.
        brightest: Mean luma of the crop. Above it, skin has lost its shades.
        sharpness: Variance of the Laplacian of the crop. A face blurred by 3% of the distance
            between the eyes has 22 and gives 0.987; by 6%, 6 and 0.962. Sharp faces have 60 and
            more, small ones of the minimum size 50.
        yaw: Degrees to either side; beyond it the nose hides the far eye.
        pitch: Degrees up or down.
        roll: Degrees to either side. Alignment corrects it; beyond this, detection misses faces.
        outside: Share of the mesh's points beyond the image.
        presence: The mesh's logit. All of 157 clear faces have 16 or more; a covered mouth and nose
            leave 8 (0.92), a covered half 10 (0.95). It does not detect glasses or a hand on the
            chin.
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


QUALITY_LIMITS = QualityLimits()


@dataclass(frozen=True, slots=True)
class MeshSigns:
    """Measurements of the mesh that are not part of `Quality`.

    Attributes:
        presence: The mesh's confidence that there is a whole face, as a logit.
        outside: Share of the mesh's points beyond the image.
    """

    presence: float
    outside: float


def quality_of(
    crop: Pixels, pose: Pose, signs: MeshSigns, limits: QualityLimits = QUALITY_LIMITS
) -> Quality:
    """Measure the quality of one face.

    Args:
        crop: The aligned face, uint8 (150, 150, 3).
    """
    luma = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    brightness = float(luma.mean())
    sharpness = float(cv2.Laplacian(luma, cv2.CV_32F).var())
    faults: dict[QualityReason, bool] = {
        "too_small": pose.scale < limits.size,
        "too_dark": brightness < limits.darkest,
        "too_bright": brightness > limits.brightest,
        "blurred": sharpness < limits.sharpness,
        "extreme_pose": abs(pose.yaw) > limits.yaw
        or abs(pose.pitch) > limits.pitch
        or abs(pose.roll) > limits.roll,
        "off_frame": signs.outside > limits.outside,
        "occluded": signs.presence < limits.presence,
    }
    reasons = tuple(reason for reason, applies in faults.items() if applies)
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
    """The share of a mesh's points beyond an image of that size."""
    x, y = mesh[:, 0], mesh[:, 1]
    return float(((x < 0) | (y < 0) | (x > width) | (y > height)).mean())
