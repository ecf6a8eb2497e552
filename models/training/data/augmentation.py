"""Random augmentation of training images: one affine transform each, applied in the graph.

Rotation, shifts, shear, zoom and flips are composed into one matrix, so that an image is
interpolated only once. The parameters are drawn outside the graph with NumPy: they depend on the
seed alone (`models.training.data.rng`), not on the device, and a resumed training draws the same.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contracts.training.trainings import Augmentation


@dataclass(frozen=True, slots=True)
class ImageTransforms:
    """The transforms of n images.

    Attributes:
        affine: float32 (n, 8): maps output pixel coordinates to input pixel coordinates, in the
            layout of TensorFlow's ImageProjectiveTransformV3.
        brightness: float32 (n,): factor for all pixels.
    """

    affine: npt.NDArray[np.float32]
    brightness: npt.NDArray[np.float32]


def draw_transforms(
    options: Augmentation, count: int, size: tuple[int, int], rng: np.random.Generator
) -> ImageTransforms:
    """Draw transforms, each option uniformly from its range.

    Args:
        options: The ranges.
        count: Number of images.
        size: (height, width) of the images in pixels.
        rng: The number of draws does not depend on the options.
    """
    height, width = size
    # One draw for all options: enabling one leaves the draws of the others unchanged.
    uniform = rng.uniform(-1, 1, (6, count))
    angle = np.deg2rad(options.rotation) * uniform[0]
    shift_x = options.width_shift * width * uniform[1]
    shift_y = options.height_shift * height * uniform[2]
    shear = options.shear * uniform[3]
    scale = 1 / (1 + options.zoom * uniform[4])
    coins = rng.random((2, count)) < 0.5
    flip_x = np.where(coins[0] & options.horizontal_flip, -1.0, 1.0)
    flip_y = np.where(coins[1] & options.vertical_flip, -1.0, 1.0)

    rotations = np.zeros((count, 2, 2))
    rotations[:, 0, 0], rotations[:, 0, 1] = np.cos(angle), -np.sin(angle)
    rotations[:, 1, 0], rotations[:, 1, 1] = np.sin(angle), np.cos(angle)
    shears = np.tile(np.eye(2), (count, 1, 1))
    shears[:, 0, 1] = shear
    # The output axes are flipped first, so that the flip does not mirror the shift.
    flips = np.stack([flip_x, flip_y], axis=1)[:, None, :]
    linear = scale[:, None, None] * (rotations @ shears) * flips
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    offset = center + np.stack([shift_x, shift_y], axis=1) - linear @ center
    affine = np.zeros((count, 8), np.float32)
    affine[:, 0:2], affine[:, 2] = linear[:, 0], offset[:, 0]
    affine[:, 3:5], affine[:, 5] = linear[:, 1], offset[:, 1]
    return ImageTransforms(affine, (1 + options.brightness * uniform[5]).astype(np.float32))


def apply_transforms(images: Any, affine: Any, brightness: Any, fill_mode: str) -> Any:
    """Transform images inside a TensorFlow graph.

    Args:
        images: uint8 (n, height, width, 3).
        affine: See `ImageTransforms`.
        brightness: See `ImageTransforms`.
        fill_mode: How pixels outside the original image are filled.

    Returns:
        float32 (n, height, width, 3) in 0 to 255.
    """
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=affine,
        output_shape=tf.shape(images)[1:3],
        interpolation="BILINEAR",
        fill_mode=fill_mode.upper(),
        fill_value=0.0,
    )
    return tf.clip_by_value(moved * brightness[:, None, None, None], 0.0, 255.0)
