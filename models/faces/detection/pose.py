"""Where a head points: its mesh against the mesh of a head that looks straight ahead.

The canonical head (`head.tsv`) is what the mesh network sees in the mean of frontal faces and
their mirror pictures, so that it looks straight ahead by symmetry; its pitch of 0 is how people
hold their heads before a camera.
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
    """How a head is held.

    Attributes:
        yaw: Degrees; positive: turned to the person's own left.
        pitch: Degrees; positive: looking up.
        roll: Degrees; positive: tilted clockwise as seen in the picture.
        scale: Pixels of the picture to the distance between the eyes of the canonical head.
        error: How far the points lie from the rigid head, in distances between the eyes.
    """

    yaw: float
    pitch: float
    roll: float
    scale: float
    error: float


def pose_of(mesh: Points) -> Pose:
    """The pose of a face, by a rigid fit of the points that no expression moves.

    Args:
        mesh: (468, 3), x to the right, y down, z away from the camera.
    """
    found = fit(_head(), mesh[list(RIGID)])
    return _pose(found.turn, found.scale, found.error / max(found.scale, 1e-6))


def _pose(turn: Matrix, scale: float, error: float) -> Pose:
    x, y, z = -turn[:, 2]  # where the nose points
    yaw, pitch = math.atan2(x, -z), math.atan2(-y, math.hypot(x, z))
    # The same head without its roll: its right, its down, its back.
    right = np.array([math.cos(yaw), 0.0, math.sin(yaw)])
    back = turn[:, 2]
    down = np.cross(back, right)
    roll = math.atan2(down @ turn[:, 0], right @ turn[:, 0])
    return Pose(math.degrees(yaw), math.degrees(pitch), math.degrees(roll), scale, error)


@cache
def _head() -> Matrix:
    """The points `RIGID` of the canonical head; its unit is the distance between the eyes."""
    text = (
        resources.files("models.faces.detection").joinpath("head.tsv").read_text(encoding="utf-8")
    )
    rows = dict(_row(line) for line in text.splitlines() if not line.startswith("#"))
    return np.array([rows[index] for index in RIGID])


def _row(line: str) -> tuple[int, list[float]]:
    index, *place = line.split("\t")
    return int(index), [float(number) for number in place]
