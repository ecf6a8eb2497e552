"""A heatmap on its picture."""

from PIL import Image

from models.images.resize import Box, Size
from models.rendering.colormaps import Colors
from models.rendering.upsampling import Grid, smooth

_OUTSIDE = (0, 0, 0)


def overlay(picture: Image.Image, grid: Grid, box: Box, *, colors: Colors, alpha: float) -> None:
    """Lay the map over the part of the picture that the network saw; what it did not stays plain.

    Args:
        picture: RGB, upright; it is changed.
        grid: Values in 0..1, shape (rows, columns).
        box: The part, in pixels of the picture.
        colors: From the lowest value to the highest, (256, 3) uint8.
        alpha: 0 shows the picture alone, 1 the map alone.
    """
    place = _whole(box)
    seen = picture.crop(place)
    picture.paste(Image.blend(seen, colored(grid, seen.size, colors), alpha), place[:2])


def map_alone(size: Size, grid: Grid, box: Box, *, colors: Colors) -> Image.Image:
    """The map at the picture's size, black where the network did not look."""
    alone = Image.new("RGB", size, _OUTSIDE)
    left, top, right, bottom = _whole(box)
    alone.paste(colored(grid, (right - left, bottom - top), colors), (left, top))
    return alone


def colored(grid: Grid, size: Size, colors: Colors) -> Image.Image:
    """The grid as a smooth picture in colors."""
    levels = smooth(grid, size)
    levels.putpalette(colors.tobytes())
    return levels.convert("RGB")


def _whole(box: Box) -> tuple[int, int, int, int]:
    """The box on whole pixels, at least one wide and high."""
    left, top = round(box[0]), round(box[1])
    return left, top, max(round(box[2]), left + 1), max(round(box[3]), top + 1)
