"""Several pictures on one: side by side, or in a grid where each has a title."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from models.rendering.legend import font_of, shortened

_PAPER, _INK, _FAINT = (255, 255, 255), (24, 24, 24), (208, 208, 208)
_GAP = 8
_TEXT = 12
_LINE = 18


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture of a sheet.

    Attributes:
        title: Said above it.
        picture: RGB; None for one that shows nothing, which is drawn as a crossed-out frame.
    """

    title: str
    picture: Image.Image | None


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


def sheet(
    tiles: Sequence[Tile], size: tuple[int, int], *, columns: int, heading: str = ""
) -> Image.Image:
    """A grid of tiles, evenly spaced, row by row.

    Args:
        tiles: At least one.
        size: (width, height) of a picture in pixels; others are made to fit it.
        columns: Tiles in a row.
        heading: A line above all.
    """
    width, height = size
    top = _LINE + _GAP if heading else _GAP
    rows = -(-len(tiles) // columns)
    step = (width + _GAP, height + _LINE + _GAP)
    whole = Image.new("RGB", (columns * step[0] + _GAP, rows * step[1] + top), _PAPER)
    draw = ImageDraw.Draw(whole)
    font = font_of(_TEXT)
    if heading:
        fitted = shortened(heading, font, whole.width - 2 * _GAP)
        draw.text((_GAP, _GAP + _LINE // 2), fitted, _INK, font, anchor="lm")
    for at, tile in enumerate(tiles):
        left, upper = _GAP + at % columns * step[0], top + at // columns * step[1]
        title = shortened(tile.title, font, width)
        draw.text((left, upper + _LINE // 2), title, _INK, font, anchor="lm")
        place = (left, upper + _LINE)
        if tile.picture is None:
            _cross_out(draw, place, size)
        else:
            whole.paste(_fitted(tile.picture, size), place)
    return whole


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR)


def _cross_out(draw: ImageDraw.ImageDraw, place: tuple[int, int], size: tuple[int, int]) -> None:
    left, upper = place
    right, lower = left + size[0] - 1, upper + size[1] - 1
    draw.rectangle((left, upper, right, lower), outline=_FAINT)
    draw.line((left, upper, right, lower), _FAINT)
    draw.line((left, lower, right, upper), _FAINT)
