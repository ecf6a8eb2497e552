"""Head pose, from the rotation between a face's mesh and a canonical head looking straight ahead.

The canonical head (`head.tsv`) is the mean mesh of frontal faces and their mirror images, so that
it looks straight ahead by symmetry; a pitch of 0 is how people hold their head before a camera.
"""

import math
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from models.faces.detection.detection import Points
from models.faces.detection.landmarks import RIGID
from models.faces.detection.similarity import Matrix, fit


@dataclass(frozen=True, slots=True)
class Pose:
    """The pose of a head.

    Attributes:
        yaw: Degrees; positive: turned to the person's own left.
        pitch: Degrees; positive: looking up.
        roll: Degrees; positive: tilted clockwise as seen in the image.
        scale: Pixels of the image per distance between the eyes of the canonical head.
        error: Root mean square distance of the points from the rigid head, in eye distances.
    """

    yaw: float
    pitch: float
    roll: float
    scale: float
    error: float


def pose_of(mesh: Points) -> Pose:
    """The pose of a face, by a rigid fit of the points that expressions do not move.

    Args:
        mesh: (468, 3), x to the right, y down, z away from the camera.
    """
    fitted = fit(_canonical_head(), mesh[list(RIGID)])
    return _pose(fitted.rotation, fitted.scale, fitted.error / max(fitted.scale, 1e-6))


def _pose(rotation: Matrix, scale: float, error: float) -> Pose:
    x, y, z = -rotation[:, 2]  # where the nose points
    yaw, pitch = math.atan2(x, -z), math.atan2(-y, math.hypot(x, z))
    # The axes of the same head without roll.
    right = np.array([math.cos(yaw), 0.0, math.sin(yaw)])
    back = rotation[:, 2]
    down = np.cross(back, right)
    roll = math.atan2(down @ rotation[:, 0], right @ rotation[:, 0])
    return Pose(math.degrees(yaw), math.degrees(pitch), math.degrees(roll), scale, error)


@cache
def _canonical_head() -> Matrix:
    """The points `RIGID` of the canonical head, in distances between the eyes."""
    text = (
        resources.files("models.faces.detection").joinpath("head.tsv").read_text(encoding="utf-8")
    )
    rows = dict(_row(line) for line in text.splitlines() if not line.startswith("#"))
    return np.array([rows[index] for index in RIGID])


def _row(line: str) -> tuple[int, list[float]]:
    index, *coordinates = line.split("\t")
    return int(index), [float(number) for number in coordinates]
