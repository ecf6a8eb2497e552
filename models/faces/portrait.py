"""A face cut out of a frame as the classic frame classifier sees it: 5 wide, 7 high, as a PNG."""

import cv2
import numpy as np

from contracts.faces.faces import Box
from contracts.queue.messages import Pixels
from models.faces.analyser import FaceAnalyser
from models.images.decode import upright

_WIDTH, _HEIGHT = 100, 140  # twice what the network takes, for the augmentation to move in
_MARGIN = 1.25  # of the face's box: hair and chin belong to it
_MOST_PIXELS = 50_000_000


def portrait(frame: bytes, analyser: FaceAnalyser) -> bytes | None:
    """The largest face of a frame; None if there is none.

    Args:
        frame: A picture file.
        analyser: Finds it.

    Returns:
        A PNG of 100 x 140 pixels.

    Raises:
        InvalidImage: The frame is no picture.
    """
    picture = np.asarray(upright(frame, max_pixels=_MOST_PIXELS))
    faces = analyser.find(picture, most=1)
    if not faces:
        return None
    cut = _cut(picture, faces[0].face.box)
    _, packed = cv2.imencode(".png", cv2.cvtColor(cut, cv2.COLOR_RGB2BGR))
    return packed.tobytes()


def _cut(picture: Pixels, box: Box) -> Pixels:
    """The box with its margin, in the portrait's shape; the picture's edge goes on beyond it."""
    height = max(box.height, box.width * _HEIGHT / _WIDTH) * _MARGIN
    scale = _HEIGHT / height
    across, down = box.x + box.width / 2, box.y + box.height / 2
    matrix = np.array(
        [[scale, 0, _WIDTH / 2 - scale * across], [0, scale, _HEIGHT / 2 - scale * down]]
    )
    # Area resampling needs whole scales; a blur before does as well and moves nothing.
    if scale < 0.5:
        picture = cv2.GaussianBlur(picture, (0, 0), 0.5 / scale)
    cut: Pixels = cv2.warpAffine(
        picture, matrix, (_WIDTH, _HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return cut
