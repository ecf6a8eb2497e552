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

from contracts.training.training_options import Augmentation


@dataclass(frozen=True, slots=True)
class ImageTransforms:
    """The transforms of n images.

    Attributes:
        affine: float32 (n, 8): maps output pixel coordinates to input pixel coordinates, in the
            layout of TensorFlow's ImageProjectiveTransformV3.
        brightness: float32 (n,): factor for all pixels.
        offset: float32 (n, 3): what is added to each channel, in levels of 0 to 255.
    """

    affine: npt.NDArray[np.float32]
    brightness: npt.NDArray[np.float32]
    offset: npt.NDArray[np.float32]

    def rows(self, indices: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float32], ...]:
        """The transforms of some of the images, in the order of `apply_transforms`."""
        return self.affine[indices], self.brightness[indices], self.offset[indices]


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
    shear = options.shear_tangent * uniform[3]
    coins = rng.random((2, count)) < 0.5
    # Drawn last, so that trainings without these options see the images they always saw.
    more = rng.uniform(-1, 1, (4, count))
    scale_x, scale_y = _scales(options, uniform[4], more[0])
    flip_x = np.where(coins[0] & options.horizontal_flip, -1.0, 1.0)
    flip_y = np.where(coins[1] & options.vertical_flip, -1.0, 1.0)

    rotations = np.zeros((count, 2, 2))
    rotations[:, 0, 0], rotations[:, 0, 1] = np.cos(angle), -np.sin(angle)
    rotations[:, 1, 0], rotations[:, 1, 1] = np.sin(angle), np.cos(angle)
    shears = np.tile(np.eye(2), (count, 1, 1))
    shears[:, 0, 1] = shear
    # The output axes are flipped first, so that the flip does not mirror the shift.
    flips = np.stack([flip_x, flip_y], axis=1)[:, None, :]
    scales = np.stack([scale_x, scale_y], axis=1)[:, None, :]
    linear = (rotations @ shears) * scales * flips
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    offset = center + np.stack([shift_x, shift_y], axis=1) - linear @ center
    affine = np.zeros((count, 8), np.float32)
    affine[:, 0:2], affine[:, 2] = linear[:, 0], offset[:, 0]
    affine[:, 3:5], affine[:, 5] = linear[:, 1], offset[:, 1]
    return ImageTransforms(
        affine,
        _between(options.brightness_range, uniform[5]).astype(np.float32),
        (options.channel_shift * more[1:].T).astype(np.float32),
    )


def _scales(options: Augmentation, across: Any, down: Any) -> tuple[Any, Any]:
    """Input pixels per output pixel along each axis, from draws in -1 to 1."""
    if not isinstance(options.zoom, tuple):
        scale = 1 / (1 + options.zoom * across)
        return scale, scale
    return _between(options.zoom, across), _between(options.zoom, down)


def _between(limits: tuple[float, float], draws: Any) -> Any:
    """Draws in -1 to 1, scaled to a range."""
    low, high = limits
    return (low + high) / 2 + (high - low) / 2 * draws


def apply_transforms(
    images: Any, affine: Any, brightness: Any, offset: Any, options: Augmentation
) -> Any:
    """Transform images inside a TensorFlow graph.

    Args:
        images: uint8 (n, height, width, 3).
        affine: See `ImageTransforms`.
        brightness: See `ImageTransforms`.
        offset: See `ImageTransforms`.
        options: How pixels outside the original image are filled.

    Returns:
        float32 (n, height, width, 3) in 0 to 255.
    """
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=affine,
        output_shape=tf.shape(images)[1:3],
        interpolation="BILINEAR",
        fill_mode=options.fill_mode.upper(),
        fill_value=options.cval,
    )
    shifted = moved * brightness[:, None, None, None] + offset[:, None, None, :]
    return tf.clip_by_value(shifted, 0.0, 255.0)
