"""Several pictures on one, side by side."""

from collections.abc import Sequence

from PIL import Image

_PAPER = (255, 255, 255)
_GAP = 8


def strip(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size from left to right.

    Args:
        pictures: At least one.
    """
    width, height = pictures[0].size
    whole = Image.new("RGB", (len(pictures) * (width + _GAP) - _GAP, height), _PAPER)
    for at, picture in enumerate(pictures):
        whole.paste(picture, (at * (width + _GAP), 0))
    return whole
