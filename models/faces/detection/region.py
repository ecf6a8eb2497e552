"""Crops a rotated square of an image to the input size of a network, and maps points back."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from contracts.queue.messages import Pixels
from models.faces.detection.detection import Points

Affine = npt.NDArray[np.float64]
"""A 2 x 3 matrix that maps (x, y, 1) in one image to (x, y) in another."""

# From this reduction on, interpolation alone would alias fine texture; pixels are averaged first.
_MIN_AVERAGED = 2.0


@dataclass(frozen=True, slots=True)
class FaceRegion:
    """A rotated square.

    Attributes:
        x: Center, in pixels.
        y: Center, in pixels.
        side: In pixels.
        angle: Clockwise rotation in radians, as seen in the image.
    """

    x: float
    y: float
    side: float
    angle: float = 0.0

    def to_square(self, size: int) -> Affine:
        """The transform from the image to a square of `size` pixels with this one upright."""
        scale = size / self.side
        cos, sin = scale * math.cos(self.angle), scale * math.sin(self.angle)
        half = size / 2
        return np.array(
            [
                [cos, sin, half - cos * self.x - sin * self.y],
                [-sin, cos, half + sin * self.x - cos * self.y],
            ]
        )


def crop_region(image: Pixels, to_square: Affine, size: int) -> Pixels:
    """Crop a square, black beyond the image; reductions average pixels.

    Args:
        image: uint8 (height, width, 3).
        to_square: A similarity transform from the image to the square.
        size: Side of the square in pixels.

    Returns:
        uint8 (size, size, 3).
    """
    to_image = cv2.invertAffineTransform(to_square)
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ to_image.T
    height, width = image.shape[:2]
    reduction = math.hypot(to_image[0, 0], to_image[1, 0])
    step = int(reduction) if reduction >= _MIN_AVERAGED else 1
    low = np.maximum(np.floor(corners.min(axis=0)) - step, 0).astype(int)
    high = np.minimum(np.ceil(corners.max(axis=0)) + step + 1, (width, height)).astype(int)
    if (high <= low).any():
        return np.zeros((size, size, 3), np.uint8)
    part = image[low[1] : high[1], low[0] : high[0]]
    # Pixel centers are at integers in OpenCV and at half-integers here.
    transform = to_square.copy()
    transform[:, 2] += to_square[:, :2] @ (low + 0.5) - 0.5
    if step > 1:
        columns, rows = (-(-part.shape[1] // step), -(-part.shape[0] // step))
        padded = cv2.copyMakeBorder(
            part,
            0, rows * step - part.shape[0], 0, columns * step - part.shape[1],
            cv2.BORDER_REPLICATE,
        )  # fmt: skip
        part = cv2.resize(padded, (columns, rows), interpolation=cv2.INTER_AREA)
        transform = to_square.copy()
        transform[:, :2] *= step
        transform[:, 2] += to_square[:, :2] @ low + transform[:, :2] @ np.array([0.5, 0.5]) - 0.5
    return np.asarray(
        cv2.warpAffine(part, transform, (size, size), flags=cv2.INTER_LINEAR), dtype=np.uint8
    )


def map_to_image(to_square: Affine, points: Points) -> Points:
    """Map points of the square, (n, 2) or (n, 3), to the image; z is only scaled."""
    to_image = cv2.invertAffineTransform(to_square)
    mapped = np.empty_like(points)
    mapped[:, :2] = points[:, :2] @ to_image[:, :2].T + to_image[:, 2]
    if points.shape[1] > 2:
        mapped[:, 2] = points[:, 2] * math.hypot(to_image[0, 0], to_image[1, 0])
    return mapped
