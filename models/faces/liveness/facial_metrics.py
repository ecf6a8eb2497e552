"""Measures eyes, mouth and head pose in one frame, from the mesh of the face.

The eye aspect ratio is that of T. Soukupová and J. Čech, "Real-Time Eye Blink Detection using
Facial Landmarks" (2016), on six points of each eye in the 468-point mesh; the mouth's is its
opening divided by its width. Distances are three-dimensional, so turning the head does not shorten
them.
"""

from dataclasses import dataclass

import numpy as np

from models.faces.detection.detection import DetectedFace, Points

# Outer corner, two points above, inner corner, two points below; the person's own sides.
_RIGHT_EYE = (33, 160, 158, 133, 153, 144)
_LEFT_EYE = (362, 385, 387, 263, 373, 380)
# Upper and lower inner lip, the corners of the mouth.
_MOUTH = (13, 14, 78, 308)


@dataclass(frozen=True, slots=True)
class FacialMetrics:
    """Measurements of one face in one frame.

    Attributes:
        right_eye: Aspect ratio; open eyes have 0.2 to 0.4. Right is the person's own.
        left_eye: Aspect ratio.
        mouth: Opening divided by width; 0 is closed.
        yaw: Degrees; positive: turned to the person's own left.
        pitch: Degrees; positive: looking up.
        roll: Degrees.
        x: Center of the face, in units of `size` from the left edge of the frame.
        y: Center of the face, in units of `size` from the upper edge.
        size: In pixels: square root of the area of the mesh's bounding box.
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


def facial_metrics(detected: DetectedFace) -> FacialMetrics:
    """Measure a detected face."""
    mesh = detected.mesh
    low, high = mesh[:, :2].min(0), mesh[:, :2].max(0)
    size = max(1.0, float(np.sqrt(np.prod(high - low))))
    x, y = (low + high) / 2 / size
    pose = detected.face.quality
    return FacialMetrics(
        right_eye=_eye_aspect_ratio(mesh, _RIGHT_EYE),
        left_eye=_eye_aspect_ratio(mesh, _LEFT_EYE),
        mouth=_ratio(mesh[_MOUTH[0]] - mesh[_MOUTH[1]], mesh[_MOUTH[2]] - mesh[_MOUTH[3]]),
        yaw=pose.yaw,
        pitch=pose.pitch,
        roll=pose.roll,
        x=float(x),
        y=float(y),
        size=size,
    )


def _eye_aspect_ratio(mesh: Points, points: tuple[int, ...]) -> float:
    p1, p2, p3, p4, p5, p6 = mesh[list(points)]
    width = p1 - p4
    return (_ratio(p2 - p6, width) + _ratio(p3 - p5, width)) / 2


def _ratio(height: Points, width: Points) -> float:
    return float(np.linalg.norm(height) / max(float(np.linalg.norm(width)), 1e-6))
