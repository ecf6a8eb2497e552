"""Aligns a face as the embedder was trained to see it, like dlib's face chips.

dlib fits a similarity transform between landmarks and the same points of a mean face, which lies in
the unit square with a margin of a quarter on every side (`get_face_chip_details`, padding 0.25).
Alignment affects the embedding more than the network does.
"""

import cv2
import numpy as np

from contracts.queue.messages import Pixels
from models.faces.detection.detection import CROP_SIDE, Points
from models.faces.detection.landmarks import LEFT_EYE, NOSE_BASE, RIGHT_EYE
from models.faces.detection.region import Affine, crop_region
from models.faces.detection.similarity import fit

_PADDING = 0.25
# The five points of dlib's mean face: corners of the eyes, outer first, and the base of the nose.
_FIVE_POINTS = (*LEFT_EYE, *RIGHT_EYE, NOSE_BASE)
_MEAN_FACE = np.array(
    [
        (0.8595674595992, 0.2134981538014),
        (0.6460604764104, 0.2289674387677),
        (0.1205750620789, 0.2137274526848),
        (0.3340850613712, 0.2290642403242),
        (0.4901123135679, 0.6277975316475),
    ]
)
_TARGETS = (_MEAN_FACE + _PADDING) / (1 + 2 * _PADDING) * CROP_SIDE


def alignment_of(mesh: Points) -> Affine:
    """The transform from the image to the aligned crop, for a face with that mesh."""
    # Fitted from the crop to the image, as dlib does: errors count in pixels of the image.
    fitted = fit(_TARGETS, mesh[list(_FIVE_POINTS), :2])
    inverse = np.hstack([fitted.scale * fitted.rotation, fitted.translation[:, None]])
    return np.asarray(cv2.invertAffineTransform(inverse), dtype=np.float64)


def align(image: Pixels, mesh: Points) -> Pixels:
    """Crop the face upright and centered, uint8 (150, 150, 3); black beyond the image."""
    return crop_region(image, alignment_of(mesh), CROP_SIDE)
