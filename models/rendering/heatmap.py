"""A heatmap as a PNG: what `/v1/heatmap` and `opsin explain` show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from models.images.decode import upright
from models.images.resize import Box, Size
from models.rendering.channels import strip
from models.rendering.colormaps import Colormap, colors_of
from models.rendering.legend import with_legend
from models.rendering.overlay import map_alone, overlay
from models.rendering.png import Packing, go_on, png
from models.rendering.upsampling import Grid

# A larger overlay is compressed always: its bytes take longer on their way than in the making.
_STORED_PIXELS = 2_000_000

Shown = Literal["overlay", "map"]


@dataclass(frozen=True, slots=True)
class Look:
    """How a heatmap is shown.

    Attributes:
        shown: On its picture, or alone.
        colormap: Its colors.
        alpha: Of the map over the picture, 0 to 1.
        legend: Whether with a title and a bar of the colors.
        compact: Whether an overlay's file is made small, which takes longer than drawing it.
    """

    shown: Shown
    colormap: Colormap
    alpha: float
    legend: bool
    compact: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """One map of a picture.

    Attributes:
        grid: Values in 0..1, shape (rows, columns).
        title: For the legend.
    """

    grid: Grid
    title: str


def render(
    source: bytes | Image.Image,
    layers: Sequence[Layer],
    *,
    size: Size,
    box: Box,
    look: Look,
    max_pixels: int,
    check: Callable[[], None] = go_on,
) -> bytes:
    """The PNG: one map at the picture's own size, or several side by side.

    Args:
        source: The picture's file, as it was sent, or the picture, which is drawn on.
        layers: At least one.
        size: The picture's, upright.
        box: What the network saw of it.
        look: How it is shown.
        max_pixels: Of the picture, and of the result: what is shown several times is made
            smaller before it is drawn on.
        check: Called before every step that takes long; what it raises ends the drawing.

    Raises:
        InvalidImage: The file cannot be read.
    """
    share = max_pixels // len(layers)
    picture = _picture(source, max_pixels) if look.shown == "overlay" else None
    if picture is not None:
        picture = bounded(picture, share)
    drawn = bounded_size(size, share)
    box = _scaled(box, size, drawn)
    colors = colors_of(look.colormap)
    pictures = []
    for layer in layers:
        check()
        if picture is None:
            shown = map_alone(drawn, layer.grid, box, colors=colors)
        else:
            shown = picture.copy() if len(layers) > 1 else picture
            overlay(shown, layer.grid, box, colors=colors, alpha=look.alpha)
        pictures.append(with_legend(shown, layer.title, colors) if look.legend else shown)
    whole = pictures[0] if len(pictures) == 1 else strip(pictures)
    return png(whole, "drawing" if picture is None else _packing(whole, look), check)


def _picture(source: bytes | Image.Image, max_pixels: int) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    return upright(source, max_pixels=max_pixels)


def _packing(overlay: Image.Image, look: Look) -> Packing:
    large = overlay.width * overlay.height > _STORED_PIXELS
    return "photo" if look.compact or large else "stored"


def bounded(picture: Image.Image, pixels: int) -> Image.Image:
    """The picture, made smaller where it has more pixels."""
    size = bounded_size(picture.size, pixels)
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BILINEAR)


def bounded_size(size: Size, pixels: int) -> Size:
    """The size, made smaller where it has more pixels."""
    scale = (pixels / (size[0] * size[1])) ** 0.5
    return size if scale >= 1 else (max(1, int(size[0] * scale)), max(1, int(size[1] * scale)))


def _scaled(box: Box, size: Size, to: Size) -> Box:
    across, down = to[0] / size[0], to[1] / size[1]
    left, top, right, bottom = box
    return left * across, top * down, right * across, bottom * down
