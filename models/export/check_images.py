"""The images with which an import is checked: the sample photos or, without them, generated ones.

Photos are better, because the outputs of a network for them are unambiguous, but an import must not
fail if there are none.
"""

from pathlib import Path

import numpy as np

from contracts.errors import OpsinError
from contracts.queue.messages import Pixels
from contracts.settings import MAX_IMAGE_PIXELS
from models.images.decode import decode
from models.images.resize import ImageInput

_MAX_IMAGES = 3


def check_images(samples: Path, network: ImageInput) -> Pixels:
    """Images of the network's input size, uint8 (n, height, width, 3).

    Args:
        samples: A folder of photos, which may be missing or contain anything.
    """
    images = []
    for file in sorted(samples.glob("*.png"))[:_MAX_IMAGES]:
        try:
            images.append(decode(file.read_bytes(), network=network, max_pixels=MAX_IMAGE_PIXELS))
        except (OSError, OpsinError):
            continue
    if images:
        return np.stack([image.pixels for image in images])
    return np.stack([_generated(network.input_size, number) for number in range(_MAX_IMAGES)])


def _generated(size: tuple[int, int], seed: int) -> Pixels:
    """Smooth colored blobs with some noise, which differ between seeds as much as photos do."""
    random = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[0:height, 0:width] / max(size)
    waves = random.uniform(1, 9, (3, 4))
    planes = [np.sin(a * x + b) * np.cos(c * y + d) for a, b, c, d in waves * np.pi]
    image = 127.5 + 110 * np.stack(planes, -1) + random.normal(0, 8, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8)
