"""The pictures that an import is checked on: the sample photos, or else some made by code.

Photos are better, for a network answers them surely; but an import must not fail for want of them.
"""

from pathlib import Path

import numpy as np

from contracts.errors import OpsinError
from contracts.queue.messages import Pixels
from models.images.decode import Target, decode

_MOST = 3
_MOST_PIXELS = 50_000_000


def check_pictures(samples: Path, network: Target) -> Pixels:
    """Some pictures of the network's input size, uint8 (n, height, width, 3).

    Args:
        samples: A folder of photos, which may be missing or hold anything.
        network: Whose input they become.
    """
    photos = []
    for file in sorted(samples.glob("*.png"))[:_MOST]:
        try:
            photos.append(decode(file.read_bytes(), network=network, max_pixels=_MOST_PIXELS))
        except (OSError, OpsinError):
            continue
    if photos:
        return np.stack([photo.pixels for photo in photos])
    return np.stack([_painted(network.input_size, number) for number in range(_MOST)])


def _painted(size: tuple[int, int], number: int) -> Pixels:
    """Smooth blobs of color with some grain, as unlike another `number`'s as photos are."""
    random = np.random.default_rng(number)
    height, width = size
    y, x = np.mgrid[0:height, 0:width] / max(size)
    waves = random.uniform(1, 9, (3, 4))
    planes = [np.sin(a * x + b) * np.cos(c * y + d) for a, b, c, d in waves * np.pi]
    picture = 127.5 + 110 * np.stack(planes, -1) + random.normal(0, 8, (height, width, 3))
    return picture.clip(0, 255).astype(np.uint8)
