"""Reads real images for the tests of faces, as the API passes them on."""

from pathlib import Path

import cv2
import numpy as np

from contracts.queue.messages import Pixels


def read(file: Path) -> Pixels:
    """RGB uint8 (height, width, 3)."""
    image = cv2.imread(str(file))
    assert image is not None, file
    return np.ascontiguousarray(image[:, :, ::-1])
