"""The anchor points that a single-shot detector's boxes are relative to (Liu et al., 2016: SSD)."""

from collections.abc import Sequence

import numpy as np

from models.faces.detection.litert import Array


def anchors(size: int, grids: Sequence[tuple[int, int]]) -> Array:
    """The centers of all boxes, as x and y in pixels of the input, float32 (n, 2).

    Args:
        size: Side of the input in pixels.
        grids: For each output grid, the finest first: pixels between two centers, and number of
            boxes per center.
    """
    rows = []
    for stride, boxes in grids:
        centers = (np.arange(size // stride) + 0.5) * stride
        y, x = np.meshgrid(centers, centers, indexing="ij")
        rows.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), boxes, axis=0))
    return np.concatenate(rows).astype(np.float32)
