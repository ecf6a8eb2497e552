"""What a face does in one frame: numbers from its mesh that say eyes, mouth and head.

The eye aspect ratio is that of T. Soukupová and J. Čech, "Real-Time Eye Blink Detection using
Facial Landmarks" (2016), on the six points of each eye in the 468-point mesh; the mouth's is its
opening over its width. Distances are taken in space, so a turned head does not narrow them.
"""

from dataclasses import dataclass

import numpy as np

from models.faces.detection.detection import FoundFace, Points

# Outer corner, two points above, inner corner, two points below; the person's own sides.
_RIGHT_EYE = (33, 160, 158, 133, 153, 144)
_LEFT_EYE = (362, 385, 387, 263, 373, 380)
# Upper and lower inner lip, the corners of the mouth.
_MOUTH = (13, 14, 78, 308)


@dataclass(frozen=True, slots=True)
class Signals:
    """One face in one frame.

    Attributes:
        right_eye: Aspect ratio; open eyes measure 0.2 to 0.4. Right is the person's own.
        left_eye: Likewise.
        mouth: Opening over width; 0 is shut.
        yaw: Degrees; positive: turned to the person's own left.
        pitch: Degrees; positive: looking up.
        roll: Degrees.
        x: Of the face's middle, in its own sizes from the picture's left edge.
        y: Likewise, from the upper edge.
        size: Pixels: the root of the area of the box around the mesh.
    """

    right_eye: float
    left_eye: float
    mouth: float
    yaw: float
    pitch: float
    roll: float
    x: float
    y: float
    size: float


def signals_of(found: FoundFace) -> Signals:
    """What a face that was found does."""
    mesh = found.mesh
    low, high = mesh[:, :2].min(0), mesh[:, :2].max(0)
    size = max(1.0, float(np.sqrt(np.prod(high - low))))
    x, y = (low + high) / 2 / size
    pose = found.face.quality
    return Signals(
        _eye(mesh, _RIGHT_EYE),
        _eye(mesh, _LEFT_EYE),
        _ratio(mesh[_MOUTH[0]] - mesh[_MOUTH[1]], mesh[_MOUTH[2]] - mesh[_MOUTH[3]]),
        pose.yaw,
        pose.pitch,
        pose.roll,
        float(x),
        float(y),
        size,
    )


def _eye(mesh: Points, points: tuple[int, ...]) -> float:
    p1, p2, p3, p4, p5, p6 = mesh[list(points)]
    width = p1 - p4
    return (_ratio(p2 - p6, width) + _ratio(p3 - p5, width)) / 2


def _ratio(high: Points, wide: Points) -> float:
    return float(np.linalg.norm(high) / max(float(np.linalg.norm(wide)), 1e-6))
