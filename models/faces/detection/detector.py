"""BlazeFace: faces and six points of each, on one small square (Bazarevsky et al., 2019)."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from contracts.queue.messages import Pixels
from models.faces.detection.anchors import anchors
from models.faces.detection.detection import Detections
from models.faces.detection.litert import LiteGraph

_OVERLAP = 0.3
_BOX = 4  # centre and size, before the points


@dataclass(frozen=True, slots=True)
class Range:
    """One of the published detectors.

    Attributes:
        grids: See `anchors`.
        least: The lowest score that counts as a face, as its publisher has it.
    """

    grids: tuple[tuple[int, int], ...]
    least: float


FULL_RANGE = Range(((4, 1),), 0.6)
"""192 x 192, faces from about 8 pixels of those upwards."""
SHORT_RANGE = Range(((8, 2), (16, 6)), 0.5)
"""128 x 128, for faces that fill a good part of the picture."""


class Detector:
    """One detector. Not safe among threads.

    Args:
        file: Its graph.
        kind: Which of the two it is.
        threads: To compute with.
    """

    def __init__(self, file: Path, kind: Range, *, threads: int) -> None:
        self._graph = LiteGraph(file, threads=threads)
        self._anchors = anchors(self._graph.size, kind.grids)
        self._least = kind.least
        # sigmoid(x) >= least, without computing it for thousands of places that hold no face.
        self._least_logit = np.log(kind.least / (1 - kind.least))

    def __call__(self, picture: Pixels) -> Detections:
        """The faces of a picture that is seen as one square, in its own pixels.

        Args:
            picture: RGB uint8 (height, width, 3); what is not square gets black borders.
        """
        square, scale, left, top = _letterboxed(picture, self._graph.size)
        first, second = self._graph(square.astype(np.float32) / 127.5 - 1)
        raw, logits = (first, second) if first.shape[-1] > 1 else (second, first)
        logits = logits[:, 0]
        sure = np.flatnonzero(logits >= self._least_logit)
        values = raw[sure]
        anchor = self._anchors[sure]
        centre, half = values[:, :2] + anchor, values[:, 2:_BOX] / 2
        found = Detections(
            np.concatenate([centre - half, centre + half], axis=1),
            (1 / (1 + np.exp(-logits[sure]))).astype(np.float32),
            values[:, _BOX:].reshape(-1, 6, 2) + anchor[:, None],
        )
        return found.merged(_OVERLAP).moved(scale=1 / scale, left=-left / scale, top=-top / scale)


def _letterboxed(picture: Pixels, size: int) -> tuple[Pixels, float, int, int]:
    """The picture in the middle of a black square; its scale and where its corner lies there."""
    height, width = picture.shape[:2]
    scale = size / max(height, width)
    columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    square = np.zeros((size, size, 3), np.uint8)
    left, top = (size - columns) // 2, (size - rows) // 2
    square[top : top + rows, left : left + columns] = cv2.resize(
        picture, (columns, rows), interpolation=method
    )
    return square, scale, left, top
