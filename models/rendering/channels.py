"""A layer's feature maps on a contact sheet, and images side by side."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from contracts.queue.explain_messages import ActivationsReply
from contracts.queue.messages import Vector
from models.rendering.colormaps import Colormap, colors_of
from models.rendering.contact_sheet import Tile, contact_sheet
from models.rendering.png import png

_SIDE = 112  # of a map, in pixels
_PAPER = (255, 255, 255)
_GAP = 8


def channels_png(vector: Vector, reply: ActivationsReply, colormap: Colormap, title: str) -> bytes:
    """Every map in its own range of colors, with its number and mean above it.

    Args:
        vector: The maps, one after the other.
        reply: Their shape and channels.
        colormap: From a map's lowest value to its highest.
        title: Written above all of them.
    """
    colors = colors_of(colormap)
    rows, columns = reply.shape
    zoom = max(1, _SIDE // max(rows, columns))  # whole pixels: values look equally large
    maps = vector.reshape(len(reply.channels), rows, columns)
    tiles = []
    for values, channel in zip(maps, reply.channels, strict=True):
        span = channel.largest - channel.smallest
        levels = (values - channel.smallest) / (span or 1) * (len(colors) - 1)
        pixels = colors[levels.round().astype(np.uint8)].repeat(zoom, 0).repeat(zoom, 1)
        tiles.append(Tile(pixels, f"{channel.index}, mean {channel.mean:.2g}", blank=span == 0))
    return png(contact_sheet(tiles, title=title))


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Images of one width from left to right, aligned at the bottom.

    Args:
        images: At least one.
    """
    width, height = images[0].width, max(image.height for image in images)
    whole = Image.new("RGB", (len(images) * (width + _GAP) - _GAP, height), _PAPER)
    for index, image in enumerate(images):
        whole.paste(image, (index * (width + _GAP), height - image.height))
    return whole
