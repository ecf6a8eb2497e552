"""Where a detector looks: the centres that its boxes are told from (Liu et al., 2016: SSD)."""

from collections.abc import Sequence

import numpy as np

from models.faces.detection.litert import Array


def anchors(size: int, grids: Sequence[tuple[int, int]]) -> Array:
    """The centres of all boxes, as x and y in pixels of the input, float32 (n, 2).

    Args:
        size: Side of the input in pixels.
        grids: For each map of the detector, from the finest: how many pixels lie between two
            centres, and how many boxes are told from each.
    """
    rows = []
    for stride, boxes in grids:
        centres = (np.arange(size // stride) + 0.5) * stride
        y, x = np.meshgrid(centres, centres, indexing="ij")
        rows.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), boxes, axis=0))
    return np.concatenate(rows).astype(np.float32)
