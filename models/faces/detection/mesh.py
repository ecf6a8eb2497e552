"""The face mesh: 468 points of one face (Kartynnik et al., 2019, arXiv:1907.06724)."""

import math
from pathlib import Path

import numpy as np

from contracts.queue.messages import Pixels
from models.faces.detection.detection import Points
from models.faces.detection.litert import LiteGraph
from models.faces.detection.region import FaceRegion, crop_region, map_to_image

POINTS = 468
# Side of the network's square relative to the face, as it was trained.
_MARGIN = 1.5


class FaceMesh:
    """The mesh network. Not thread-safe."""

    def __init__(self, file: Path, *, threads: int) -> None:
        self._graph = LiteGraph(file, threads=threads)

    def __call__(self, image: Pixels, region: FaceRegion) -> tuple[Points, float]:
        """The points in pixels of the image, and the confidence that there is a whole face.

        The confidence is a logit; above 0 a face is more likely than not. Clear faces have 15 to
        35, which as probabilities would all be 1; covered ones have less.

        Args:
            image: RGB uint8 (height, width, 3).
            region: Contains the face upright; see `region_of_box` and `region_of_mesh`.
        """
        size = self._graph.size
        to_square = region.to_square(size)
        square = crop_region(image, to_square, size)
        first, second = self._graph(square.astype(np.float32) / np.float32(255))
        points, logit = (first, second) if first.size > 1 else (second, first)
        return map_to_image(to_square, points.reshape(POINTS, 3)), float(logit.ravel()[0])


def region_of_box(box: Points, right_eye: Points, left_eye: Points) -> FaceRegion:
    """The mesh network's input region for a face that was just detected.

    Args:
        box: Left, top, right, bottom.
        right_eye: x and y.
        left_eye: x and y.
    """
    eye_line = left_eye - right_eye
    low, high = box[:2], box[2:]
    x, y = (low + high) / 2
    angle = math.atan2(eye_line[1], eye_line[0])
    return FaceRegion(float(x), float(y), _MARGIN * float(max(high - low)), angle)


def region_of_mesh(mesh: Points) -> FaceRegion:
    """The mesh network's input region for a face whose mesh in the previous frame is known."""
    eye_line = mesh[263, :2] - mesh[33, :2]
    angle = math.atan2(eye_line[1], eye_line[0])
    # The bounding box is upright relative to the face, not to the image.
    cos, sin = math.cos(angle), math.sin(angle)
    upright = mesh[:, :2] @ np.array([[cos, -sin], [sin, cos]], np.float32)
    low, high = upright.min(axis=0), upright.max(axis=0)
    x, y = np.array([[cos, -sin], [sin, cos]]) @ ((low + high) / 2)
    return FaceRegion(float(x), float(y), _MARGIN * float(max(high - low)), angle)
