"""Faces as a detector returns them and as the pipeline passes them on, and how duplicates merge."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from contracts.faces.faces import Face
from contracts.queue.messages import Pixels
from models.faces.detection.litert import Array

Points = npt.NDArray[np.float32]

CROP_SIDE = 150
"""Side in pixels of an aligned face, the input of the embedder."""
RIGHT_EYE, LEFT_EYE, NOSE, MOUTH, RIGHT_EAR, LEFT_EAR = range(6)
"""Indices of a detector's six points; right and left are the person's own."""


@dataclass(frozen=True, slots=True)
class DetectedFace:
    """A face in an image, measured and aligned.

    Attributes:
        face: The part of it that clients see.
        mesh: The points of the face mesh, float32 (468, 3): x and y in pixels of the image, z at
            the same scale, increasing away from the camera, 0 near the middle of the head.
        crop: The face upright and centered: RGB uint8, (150, 150, 3).
    """

    face: Face
    mesh: Points
    crop: Pixels


@dataclass(frozen=True, slots=True)
class Detections:
    """The raw output of a detector, in pixels of the image.

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
    def empty(cls) -> Self:
        """No faces."""
        shapes = (0, 4), (0,), (0, 6, 2)
        boxes, scores, points = (np.zeros(shape, np.float32) for shape in shapes)
        return cls(boxes, scores, points)

    @classmethod
    def concatenate(cls, several: "list[Detections]") -> Self:
        """All detections, including duplicates."""
        if not several:
            return cls.empty()
        return cls(
            np.concatenate([detections.boxes for detections in several]),
            np.concatenate([detections.scores for detections in several]),
            np.concatenate([detections.points for detections in several]),
        )

    def select(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Self:
        """Some detections, by a mask or by indices."""
        return type(self)(self.boxes[chosen], self.scores[chosen], self.points[chosen])

    def transform(self, *, scale: float, left: float, top: float) -> Self:
        """Multiply all coordinates by `scale`, then add (left, top)."""
        offset = np.array([left, top], np.float32)
        return type(self)(
            self.boxes * np.float32(scale) + np.tile(offset, 2),
            self.scores,
            self.points * np.float32(scale) + offset,
        )

    def merge(self, overlap: float) -> Self:
        """Merge duplicates into their mean, weighted by score; highest score first.

        Between video frames this is steadier than keeping only the best box (Bazarevsky et al.,
        2019, arXiv:1907.05047).

        Args:
            overlap: Boxes with a larger intersection over union are the same face.
        """
        remaining = self.select(np.argsort(-self.scores, kind="stable"))
        merged = []
        while len(remaining):
            same = _overlaps(remaining.boxes[0], remaining.boxes) > overlap
            same[0] = True
            group = remaining.select(same)
            weights = group.scores / group.scores.sum()
            merged.append(
                type(self)(
                    (group.boxes * weights[:, None]).sum(axis=0, keepdims=True),
                    group.scores[:1],
                    (group.points * weights[:, None, None]).sum(axis=0, keepdims=True),
                )
            )
            remaining = remaining.select(~same)
        return self.concatenate(list(merged))


def _overlaps(box: Array, boxes: Array) -> Array:
    """Intersection over union of one box with each of some."""
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    intersections = np.clip(high - low, 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    area = (box[2:] - box[:2]).prod()
    overlaps: Array = intersections / np.maximum(areas + area - intersections, 1e-6)
    return overlaps
