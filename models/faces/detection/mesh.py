"""The face mesh: 468 points of one face (Kartynnik et al., 2019, arXiv:1907.06724)."""

import math
from pathlib import Path

import numpy as np

from contracts.queue.messages import Pixels
from models.faces.detection.detection import Points
from models.faces.detection.litert import LiteGraph
from models.faces.detection.region import Region, back_from, cut

POINTS = 468
# How much wider than the face the square is that the network looks at, as it was trained.
_MARGIN = 1.5


class FaceMesh:
    """The network. Not safe among threads.

    Args:
        file: Its graph.
        threads: To compute with.
    """

    def __init__(self, file: Path, *, threads: int) -> None:
        self._graph = LiteGraph(file, threads=threads)

    def __call__(self, picture: Pixels, region: Region) -> tuple[Points, float]:
        """The points in pixels of the picture, and how sure it is that there is a whole face.

        The second is a logit: above 0 there is rather a face than not. Clear faces have 15 to 35,
        which as probabilities would all be 1; covered ones have less.

        Args:
            picture: RGB uint8 (height, width, 3).
            region: Where the face is, upright in it; see `around_box` and `around_mesh`.
        """
        size = self._graph.size
        onto = region.onto(size)
        first, second = self._graph(cut(picture, onto, size).astype(np.float32) / np.float32(255))
        points, logit = (first, second) if first.size > 1 else (second, first)
        return back_from(onto, points.reshape(POINTS, 3)), float(logit.ravel()[0])


def around_box(box: Points, right_eye: Points, left_eye: Points) -> Region:
    """Where the mesh looks for a face that was just detected.

    Args:
        box: Left, top, right, bottom.
        right_eye: x and y.
        left_eye: x and y.
    """
    across = left_eye - right_eye
    low, high = box[:2], box[2:]
    x, y = (low + high) / 2
    return Region(
        float(x), float(y), _MARGIN * float(max(high - low)), math.atan2(across[1], across[0])
    )


def around_mesh(mesh: Points) -> Region:
    """Where the mesh looks for a face that it saw in the frame before, or for a second look."""
    across = mesh[263, :2] - mesh[33, :2]
    angle = math.atan2(across[1], across[0])
    # The box that is upright for the face, not for the picture.
    cos, sin = math.cos(angle), math.sin(angle)
    upright = mesh[:, :2] @ np.array([[cos, -sin], [sin, cos]], np.float32)
    low, high = upright.min(axis=0), upright.max(axis=0)
    x, y = np.array([[cos, -sin], [sin, cos]]) @ ((low + high) / 2)
    return Region(float(x), float(y), _MARGIN * float(max(high - low)), angle)
