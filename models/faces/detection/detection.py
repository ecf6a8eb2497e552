"""Faces as a detector tells them: boxes, scores and six points each, and how doubles are merged.

One face that was found, with what only code needs of it and no client is told.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from contracts.faces.faces import Face
from contracts.queue.messages import Pixels
from models.faces.detection.litert import Array

RIGHT_EYE, LEFT_EYE, NOSE, MOUTH, RIGHT_EAR, LEFT_EAR = range(6)
"""The six points, right and left being the person's own."""


@dataclass(frozen=True, slots=True)
class Detections:
    """Some faces, in pixels of the picture.

    Attributes:
        boxes: Left, top, right, bottom; float32 (n, 4).
        scores: 0 to 1; float32 (n,).
        points: x and y of six points; float32 (n, 6, 2).
    """

    boxes: Array
    scores: Array
    points: Array

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def none(cls) -> Self:
        """No face."""
        shapes = (0, 4), (0,), (0, 6, 2)
        boxes, scores, points = (np.zeros(shape, np.float32) for shape in shapes)
        return cls(boxes, scores, points)

    @classmethod
    def joined(cls, several: "list[Detections]") -> Self:
        """All of them, doubles included."""
        if not several:
            return cls.none()
        return cls(
            np.concatenate([one.boxes for one in several]),
            np.concatenate([one.scores for one in several]),
            np.concatenate([one.points for one in several]),
        )

    def where(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Self:
        """Some of them, by a mask or by their places."""
        return type(self)(self.boxes[chosen], self.scores[chosen], self.points[chosen])

    def moved(self, *, scale: float, left: float, top: float) -> Self:
        """As they are in a picture of which this one is a part, shrunk by `scale`."""
        offset = np.array([left, top], np.float32)
        return type(self)(
            self.boxes * np.float32(scale) + np.tile(offset, 2),
            self.scores,
            self.points * np.float32(scale) + offset,
        )

    def merged(self, overlap: float) -> Self:
        """Each face once, the surest first: the mean of its boxes, weighted by their scores.

        Bazarevsky et al., 2019 (arXiv:1907.05047): quieter from frame to frame than to keep the
        best box and to drop the others.

        Args:
            overlap: Intersection over union from which two boxes are one face.
        """
        left = self.where(np.argsort(-self.scores, kind="stable"))
        kept = []
        while len(left):
            same = _overlaps(left.boxes[0], left.boxes) > overlap
            same[0] = True
            group = left.where(same)
            weights = group.scores / group.scores.sum()
            kept.append(
                type(self)(
                    (group.boxes * weights[:, None]).sum(axis=0, keepdims=True),
                    group.scores[:1],
                    (group.points * weights[:, None, None]).sum(axis=0, keepdims=True),
                )
            )
            left = left.where(~same)
        return self.joined(list(kept))


def _overlaps(box: Array, boxes: Array) -> Array:
    """Intersection over union of one box with each of some."""
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    area = (box[2:] - box[:2]).prod()
    overlaps: Array = shared / np.maximum(areas + area - shared, 1e-6)
    return overlaps


Points = npt.NDArray[np.float32]

CHIP_SIDE = 150
"""Pixels of the side of a straightened face, as the embedder takes it."""


@dataclass(frozen=True, slots=True)
class FoundFace:
    """A face of a picture.

    Attributes:
        face: What is told of it.
        mesh: The 468 points of the face mesh, shape (468, 3), float32: x and y in pixels of the
            picture, z in the same scale, growing away from the camera, 0 about the head's middle.
        chip: The face upright, centred and cut out: RGB uint8, (150, 150, 3).
    """

    face: Face
    mesh: Points
    chip: Pixels
