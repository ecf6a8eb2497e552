"""Variations of training pictures: an affine map each, drawn with NumPy, applied in the graph.

Rotation, shifts, shear, zoom and flips are composed into one matrix, so that a picture is
interpolated once. The draws are made outside of the graph: they are then a pure function of the
seed (`models.training.data.rng`), whatever the device, and a resumed training draws the same.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contracts.training.trainings import Augmentation


@dataclass(frozen=True, slots=True)
class Variations:
    """How each of n pictures is varied.

    Attributes:
        maps: float32 (n, 8): from a place in the result to one in the picture, in pixels, as
            TensorFlow's ImageProjectiveTransformV3 takes it.
        brightness: float32 (n,): what the pixels are multiplied by.
    """

    maps: npt.NDArray[np.float32]
    brightness: npt.NDArray[np.float32]

    def of(self, places: npt.NDArray[np.int64]) -> "Variations":
        """Those of some of the pictures."""
        return Variations(self.maps[places], self.brightness[places])


def draw(
    options: Augmentation, count: int, size: tuple[int, int], chance: np.random.Generator
) -> Variations:
    """Draw `count` variations, each option uniformly from its range.

    Args:
        options: The ranges.
        count: How many.
        size: (height, width) of the pictures in pixels.
        chance: What to draw from; always drawn the same number of times.
    """
    height, width = size
    # One draw for all options: switching one on leaves the others' draws as they were.
    either_way = chance.uniform(-1, 1, (6, count))
    angle = np.deg2rad(options.rotation) * either_way[0]
    across = options.width_shift * width * either_way[1]
    down = options.height_shift * height * either_way[2]
    slant = options.shear * either_way[3]
    scale = 1 / (1 + options.zoom * either_way[4])
    coins = chance.random((2, count)) < 0.5
    mirror = np.where(coins[0] & options.horizontal_flip, -1.0, 1.0)
    upend = np.where(coins[1] & options.vertical_flip, -1.0, 1.0)

    rows = np.zeros((count, 2, 2))
    rows[:, 0, 0], rows[:, 0, 1] = np.cos(angle), -np.sin(angle)
    rows[:, 1, 0], rows[:, 1, 1] = np.sin(angle), np.cos(angle)
    slanted = np.tile(np.eye(2), (count, 1, 1))
    slanted[:, 0, 1] = slant
    # The result's axes are flipped first, so that a shift is not mirrored back.
    flips = np.stack([mirror, upend], axis=1)[:, None, :]
    linear = scale[:, None, None] * (rows @ slanted) * flips
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    offset = centre + np.stack([across, down], axis=1) - linear @ centre
    maps = np.zeros((count, 8), np.float32)
    maps[:, 0:2], maps[:, 2] = linear[:, 0], offset[:, 0]
    maps[:, 3:5], maps[:, 5] = linear[:, 1], offset[:, 1]
    return Variations(maps, (1 + options.brightness * either_way[5]).astype(np.float32))


def apply(pictures: Any, maps: Any, brightness: Any, fill_mode: str) -> Any:
    """Vary pictures, inside of a TensorFlow graph.

    Args:
        pictures: uint8 (n, height, width, 3).
        maps: See `Variations`.
        brightness: See there.
        fill_mode: What shows where the picture moved away.

    Returns:
        float32 (n, height, width, 3) in 0 to 255.
    """
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(pictures, tf.float32),
        transforms=maps,
        output_shape=tf.shape(pictures)[1:3],
        interpolation="BILINEAR",
        fill_mode=fill_mode.upper(),
        fill_value=0.0,
    )
    return tf.clip_by_value(moved * brightness[:, None, None, None], 0.0, 255.0)
