"""Draws a heatmap over its image."""

from PIL import Image

from models.images.resize import Box, Size
from models.rendering.colormaps import Colors
from models.rendering.upsampling import Grid, smooth

_OUTSIDE = (0, 0, 0)


def draw_overlay(image: Image.Image, grid: Grid, box: Box, *, colors: Colors, alpha: float) -> None:
    """Draw the heatmap over the part of the image that the network saw; the rest stays plain.

    Args:
        image: RGB, upright; changed in place.
        grid: Values in 0..1, shape (rows, columns).
        box: That part, in pixels of the image.
        colors: From the lowest value to the highest, (256, 3) uint8.
        alpha: 0 shows the image alone, 1 the heatmap alone.
    """
    area = _whole_pixels(box)
    visible = image.crop(area)
    blended = Image.blend(visible, colored(grid, visible.size, colors), alpha)
    image.paste(blended, area[:2])


def map_alone(size: Size, grid: Grid, box: Box, *, colors: Colors) -> Image.Image:
    """The heatmap at the image's size, black outside the part that the network saw."""
    alone = Image.new("RGB", size, _OUTSIDE)
    left, top, right, bottom = _whole_pixels(box)
    alone.paste(colored(grid, (right - left, bottom - top), colors), (left, top))
    return alone


def colored(grid: Grid, size: Size, colors: Colors) -> Image.Image:
    """The grid as a smooth image in colors."""
    levels = smooth(grid, size)
    levels.putpalette(colors.tobytes())
    return levels.convert("RGB")


def _whole_pixels(box: Box) -> tuple[int, int, int, int]:
    """The box on whole pixels, at least one wide and high."""
    left, top = round(box[0]), round(box[1])
    return left, top, max(round(box[2]), left + 1), max(round(box[3]), top + 1)
