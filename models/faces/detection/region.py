"""A square of a picture, turned any way, and what lies in it at the size a network takes."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from contracts.queue.messages import Pixels
from models.faces.detection.detection import Points

Affine = npt.NDArray[np.float64]
"""A 2 x 3 matrix that takes (x, y, 1) in one picture to (x, y) in another."""

# Sampling at every second pixel or less lets fine texture through as noise; averages go before.
_COARSE = 2.0


@dataclass(frozen=True, slots=True)
class Region:
    """A square.

    Attributes:
        x: Of its centre, in pixels.
        y: Of its centre.
        side: In pixels.
        angle: Radians by which it is turned clockwise, as seen in the picture.
    """

    x: float
    y: float
    side: float
    angle: float = 0.0

    def onto(self, size: int) -> Affine:
        """From the picture to a square of `size` pixels that holds this one upright."""
        scale = size / self.side
        cos, sin = scale * math.cos(self.angle), scale * math.sin(self.angle)
        half = size / 2
        return np.array(
            [
                [cos, sin, half - cos * self.x - sin * self.y],
                [-sin, cos, half + sin * self.x - cos * self.y],
            ]
        )


def cut(picture: Pixels, onto: Affine, size: int) -> Pixels:
    """A square of a picture, black where the picture ends; averaged where it is made smaller.

    Args:
        picture: uint8 (height, width, 3).
        onto: A similarity from the picture to the square.
        size: Side of the square in pixels.

    Returns:
        uint8 (size, size, 3).
    """
    back = cv2.invertAffineTransform(onto)
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ back.T
    height, width = picture.shape[:2]
    shrink = math.hypot(back[0, 0], back[1, 0])
    step = int(shrink) if shrink >= _COARSE else 1
    low = np.maximum(np.floor(corners.min(axis=0)) - step, 0).astype(int)
    high = np.minimum(np.ceil(corners.max(axis=0)) + step + 1, (width, height)).astype(int)
    if (high <= low).any():
        return np.zeros((size, size, 3), np.uint8)
    part = picture[low[1] : high[1], low[0] : high[0]]
    # Pixel centres lie on whole numbers for OpenCV and half-way between for us.
    moved = onto.copy()
    moved[:, 2] += onto[:, :2] @ (low + 0.5) - 0.5
    if step > 1:
        columns, rows = (-(-part.shape[1] // step), -(-part.shape[0] // step))
        grown = cv2.copyMakeBorder(
            part,
            0, rows * step - part.shape[0], 0, columns * step - part.shape[1],
            cv2.BORDER_REPLICATE,
        )  # fmt: skip
        part = cv2.resize(grown, (columns, rows), interpolation=cv2.INTER_AREA)
        moved = onto.copy()
        moved[:, :2] *= step
        moved[:, 2] += onto[:, :2] @ low + moved[:, :2] @ np.array([0.5, 0.5]) - 0.5
    return np.asarray(
        cv2.warpAffine(part, moved, (size, size), flags=cv2.INTER_LINEAR), dtype=np.uint8
    )


def back_from(onto: Affine, points: Points) -> Points:
    """Points of the square, (n, 2) or (n, 3), where they are in the picture; z only scaled."""
    back = cv2.invertAffineTransform(onto)
    placed = np.empty_like(points)
    placed[:, :2] = points[:, :2] @ back[:, :2].T + back[:, 2]
    if points.shape[1] > 2:
        placed[:, 2] = points[:, 2] * math.hypot(back[0, 0], back[1, 0])
    return placed
