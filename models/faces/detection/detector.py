"""BlazeFace: detects faces and six points of each in a small square (Bazarevsky et al., 2019)."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from contracts.queue.messages import Pixels
from models.faces.detection.anchors import anchors
from models.faces.detection.detection import Detections
from models.faces.detection.litert import LiteGraph

_OVERLAP = 0.3
_BOX_VALUES = 4  # center and size, before the points


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """Parameters of a published detector.

    Attributes:
        grids: See `anchors`.
        min_score: The lowest score that counts as a face, as published.
    """

    grids: tuple[tuple[int, int], ...]
    min_score: float


FULL_RANGE = DetectorSpec(((4, 1),), 0.6)
"""192 x 192, for faces from about 8 of those pixels."""
SHORT_RANGE = DetectorSpec(((8, 2), (16, 6)), 0.5)
"""128 x 128, for faces that fill much of the image."""


class Detector:
    """Runs one detector. Not thread-safe."""

    def __init__(self, file: Path, spec: DetectorSpec, *, threads: int) -> None:
        self._graph = LiteGraph(file, threads=threads)
        self._anchors = anchors(self._graph.size, spec.grids)
        # Comparing logits avoids computing the sigmoid of thousands of anchors without a face.
        self._min_logit = np.log(spec.min_score / (1 - spec.min_score))

    def __call__(self, image: Pixels) -> Detections:
        """Detect the faces in an image, which is analyzed as one square.

        Args:
            image: RGB uint8 (height, width, 3); black borders make it square.

        Returns:
            Detections in pixels of the image.
        """
        square, scale, left, top = _letterbox(image, self._graph.size)
        first, second = self._graph(square.astype(np.float32) / 127.5 - 1)
        raw, logits = (first, second) if first.shape[-1] > 1 else (second, first)
        logits = logits[:, 0]
        chosen = np.flatnonzero(logits >= self._min_logit)
        values = raw[chosen]
        anchor = self._anchors[chosen]
        center, half = values[:, :2] + anchor, values[:, 2:_BOX_VALUES] / 2
        detections = Detections(
            np.concatenate([center - half, center + half], axis=1),
            (1 / (1 + np.exp(-logits[chosen]))).astype(np.float32),
            values[:, _BOX_VALUES:].reshape(-1, 6, 2) + anchor[:, None],
        )
        return detections.merge(_OVERLAP).transform(
            scale=1 / scale, left=-left / scale, top=-top / scale
        )


def _letterbox(image: Pixels, size: int) -> tuple[Pixels, float, int, int]:
    """Center the image in a black square; returns also its scale, left and top in the square."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    square = np.zeros((size, size, 3), np.uint8)
    left, top = (size - columns) // 2, (size - rows) // 2
    square[top : top + rows, left : left + columns] = cv2.resize(
        image, (columns, rows), interpolation=method
    )
    return square, scale, left, top
