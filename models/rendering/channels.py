"""A layer's feature maps on one sheet.

Several pictures on one, side by side.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from contracts.queue.explain_messages import ActivationsNote
from contracts.queue.messages import Vector
from models.explain.contact_sheet import Tile, sheet
from models.rendering.colormaps import Colormap, colors_of
from models.rendering.png import png

_SIDE = 112


def channels_png(vector: Vector, note: ActivationsNote, colormap: Colormap, title: str) -> bytes:
    """Every map in its own range of colors, its number and strength above it.

    Args:
        vector: The maps, one after the other.
        note: What they are.
        colormap: From a map's lowest value to its highest.
        title: Stands over all.
    """
    colors = colors_of(colormap)
    rows, columns = note.shape
    # Whole pixels a value, so that none looks larger than its neighbour.
    zoom = max(1, _SIDE // max(rows, columns))
    tiles = []
    for one, channel in zip(
        vector.reshape(len(note.channels), rows, columns), note.channels, strict=True
    ):
        span = channel.largest - channel.smallest
        levels = (one - channel.smallest) / (span or 1) * (len(colors) - 1)
        pixels = colors[levels.round().astype(np.uint8)].repeat(zoom, 0).repeat(zoom, 1)
        tiles.append(Tile(pixels, f"{channel.index}: {channel.mean:.2g}", blank=span == 0))
    return png(sheet(tiles, title=title))


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
