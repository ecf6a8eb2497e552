"""Real pictures for the tests of faces, read as the API hands them over."""

from pathlib import Path

import cv2
import numpy as np

from contracts.queue.messages import Pixels


def read(file: Path) -> Pixels:
    """RGB uint8 (height, width, 3)."""
    picture = cv2.imread(str(file))
    assert picture is not None, file
    return np.ascontiguousarray(picture[:, :, ::-1])
