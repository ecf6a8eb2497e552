"""A contact sheet: evenly spaced images with a title over each, blank ones marked as such."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from contracts.queue.messages import Pixels
from models.rendering.legend import font_of, wrapped
from models.rendering.png import SOFTWARE

_GAP = 8
_LINE_HEIGHT, _LABEL_HEIGHT, _LABEL_SIZE = 18, 16, 13
_PAPER, _INK, _PALE = "white", "#222222", "#999999"

TITLE_SIZE = 15
"""Of a sheet's title, in pixels."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One image of a contact sheet.

    Attributes:
        pixels: uint8 (h, w, 3).
        title: Written above it.
        blank: Draw an empty, crossed frame instead: the image shows nothing.
    """

    pixels: Pixels
    title: str
    blank: bool = False


def contact_sheet(tiles: Sequence[Tile], *, title: str = "", columns: int = 0) -> Image.Image:
    """All tiles in rows, each in a cell as large as the largest.

    Args:
        tiles: At least one.
        title: Written above all of them, in several lines if it is long.
        columns: Tiles in a row; 0 makes the sheet as square as possible.
    """
    columns = min(columns or math.ceil(math.sqrt(len(tiles))), len(tiles))
    rows = math.ceil(len(tiles) / columns)
    height = max(tile.pixels.shape[0] for tile in tiles)
    width = max(tile.pixels.shape[1] for tile in tiles)
    sheet_width = _GAP + columns * (width + _GAP)
    titles = _lines(title, sheet_width - 2 * _GAP)
    top = _GAP + (len(titles) * _LINE_HEIGHT + _GAP if titles else 0)
    size = (sheet_width, top + rows * (_LABEL_HEIGHT + height + _GAP))
    paper = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(paper)
    for number, line in enumerate(titles):
        corner = (_GAP, _GAP + number * _LINE_HEIGHT)
        draw.text(corner, line, _INK, font_of(TITLE_SIZE))
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        x, y = _GAP + column * (width + _GAP), top + row * (_LABEL_HEIGHT + height + _GAP)
        _write(draw, (x, y), tile.title, width, size=_LABEL_SIZE)
        _paste(paper, draw, tile, (x, y + _LABEL_HEIGHT))
    return paper


def to_png(image: Image.Image) -> bytes:
    """The image as a PNG file, as small as Pillow makes it."""
    file = io.BytesIO()
    text = PngInfo()
    text.add_text("Software", SOFTWARE)
    image.save(file, "PNG", optimize=True, pnginfo=text)
    return file.getvalue()


def _lines(title: str, width: int) -> list[str]:
    """The sheet's title, broken so that it fits; a few lines at most."""
    return wrapped(title, font_of(TITLE_SIZE), width) if title else []


def _paste(
    paper: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, corner: tuple[int, int]
) -> None:
    if not tile.blank:
        paper.paste(Image.fromarray(tile.pixels), corner)
        return
    height, width = tile.pixels.shape[:2]
    (x, y), (right, bottom) = corner, (corner[0] + width - 1, corner[1] + height - 1)
    draw.rectangle((x, y, right, bottom), outline=_PALE)
    draw.line((x, y, right, bottom), fill=_PALE)
    draw.line((x, bottom, right, y), fill=_PALE)
    font = ImageFont.load_default(11)
    draw.text(
        (x + width / 2, y + height / 2),
        "blank",
        _INK,
        font,
        "mm",
        stroke_width=3,
        stroke_fill=_PAPER,
    )


def _write(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, width: int, *, size: int
) -> None:
    """One line, shortened until it fits."""
    font = ImageFont.load_default(size)
    while len(text) > 1 and draw.textlength(text, font) > width:
        text = text[:-2] + "…"
    draw.text(corner, text, _INK, font)
