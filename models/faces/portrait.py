"""Crops a face for the classic face classifier: a PNG whose sides are in the ratio 5 to 7."""

from typing import TYPE_CHECKING

import cv2
import numpy as np

from contracts.faces.faces import Box
from contracts.queue.messages import Pixels
from contracts.settings import MAX_IMAGE_PIXELS
from models.images.decode import decode_upright

if TYPE_CHECKING:
    from models.faces.analyzer import FaceAnalyzer

_WIDTH, _HEIGHT = 100, 140  # twice the network's input, to leave room for the augmentation
_MARGIN = 1.25  # of the face's box, to include hair and chin


def portrait(frame: bytes, analyzer: "FaceAnalyzer") -> bytes | None:
    """Crop the largest face of an image file.

    Returns:
        A PNG of 100 x 140 pixels; None if there is no face.

    Raises:
        InvalidImage: The frame cannot be decoded.
    """
    image = np.asarray(decode_upright(frame, max_pixels=MAX_IMAGE_PIXELS))
    faces = analyzer.find(image, max_faces=1)
    return crop_portrait(image, faces[0].face.box) if faces else None


def crop_portrait(image: Pixels, box: Box) -> bytes:
    """Crop a face with a margin at the portrait's ratio; edge pixels repeat beyond the image.

    Args:
        image: RGB uint8 (height, width, 3), upright.
        box: The face in pixels of the image.

    Returns:
        A PNG of 100 x 140 pixels.
    """
    height = max(box.height, box.width * _HEIGHT / _WIDTH) * _MARGIN
    scale = _HEIGHT / height
    center_x, center_y = box.x + box.width / 2, box.y + box.height / 2
    matrix = np.array(
        [[scale, 0, _WIDTH / 2 - scale * center_x], [0, scale, _HEIGHT / 2 - scale * center_y]]
    )
    # Area resampling needs integer scales; blurring first works as well and moves nothing.
    if scale < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), 0.5 / scale)
    cropped = cv2.warpAffine(
        image, matrix, (_WIDTH, _HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    _, encoded = cv2.imencode(".png", cv2.cvtColor(cropped, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()
