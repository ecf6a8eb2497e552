"""A face straightened and cut out as the embedder was trained to see it: dlib's face chips.

dlib lays a similarity through landmarks and the same points of a mean face, which lies in the
unit square, with a quarter of it as margin on every side (`get_face_chip_details`, padding 0.25).
Alignment matters more than the network.
"""

import cv2
import numpy as np

from contracts.queue.messages import Pixels
from models.faces.detection.detection import CHIP_SIDE, Points
from models.faces.detection.landmarks import LEFT_EYE, NOSE_BASE, RIGHT_EYE
from models.faces.detection.region import Affine, cut
from models.faces.detection.similarity import fit

_PADDING = 0.25
# dlib's mean face of five points: corners of the eyes, outer first, and the nose's base.
_FIVE = (*LEFT_EYE, *RIGHT_EYE, NOSE_BASE)
_MEAN_FACE = np.array(
    [
        (0.8595674595992, 0.2134981538014),
        (0.6460604764104, 0.2289674387677),
        (0.1205750620789, 0.2137274526848),
        (0.3340850613712, 0.2290642403242),
        (0.4901123135679, 0.6277975316475),
    ]
)
_PLACES = (_MEAN_FACE + _PADDING) / (1 + 2 * _PADDING) * CHIP_SIDE


def chip_affine(mesh: Points) -> Affine:
    """From the picture to the chip, for a face with that mesh."""
    # Fitted from the chip to the picture, as dlib does: errors count in pixels of the picture.
    found = fit(_PLACES, mesh[list(_FIVE), :2])
    back = np.hstack([found.scale * found.turn, found.shift[:, None]])
    return np.asarray(cv2.invertAffineTransform(back), dtype=np.float64)


def chip_of(picture: Pixels, mesh: Points) -> Pixels:
    """The face upright and in the middle, uint8 (150, 150, 3); black where the picture ends."""
    return cut(picture, chip_affine(mesh), CHIP_SIDE)
