"""Several pictures on one, side by side."""

from collections.abc import Sequence

from PIL import Image

_PAPER = (255, 255, 255)
_GAP = 8


def strip(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one width from left to right, on one foot.

    Args:
        pictures: At least one.
    """
    width, height = pictures[0].width, max(picture.height for picture in pictures)
    whole = Image.new("RGB", (len(pictures) * (width + _GAP) - _GAP, height), _PAPER)
    for at, picture in enumerate(pictures):
        whole.paste(picture, (at * (width + _GAP), height - picture.height))
    return whole
