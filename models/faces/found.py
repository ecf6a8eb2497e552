"""One face that was found, with what only code needs of it and no client is told."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.faces import Face
from contracts.messages import Pixels

Points = npt.NDArray[np.float32]

CHIP_SIDE = 150
"""Pixels of the side of a straightened face, as the embedder takes it."""


@dataclass(frozen=True, slots=True)
class FoundFace:
    """A face of a picture.

    Attributes:
        face: What is told of it.
        mesh: The 468 points of the face mesh, shape (468, 3), float32: x and y in pixels of the
            picture, z in the same scale, growing away from the camera, 0 about the head's middle.
        chip: The face upright, centred and cut out: RGB uint8, (150, 150, 3).
    """

    face: Face
    mesh: Points
    chip: Pixels
