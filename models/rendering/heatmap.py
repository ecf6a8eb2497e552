"""A heatmap as a PNG: what `/v1/heatmap` and `opsin explain` show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from models.images.decode import decode_upright
from models.images.resize import Box, Size
from models.rendering.channels import side_by_side
from models.rendering.colormaps import Colormap, colors_of
from models.rendering.legend import with_legend
from models.rendering.overlay import draw_overlay, map_alone
from models.rendering.png import Packing, no_check, png
from models.rendering.upsampling import Grid

# A larger overlay is always compressed: sending its bytes takes longer than compressing them.
_MAX_STORED_PIXELS = 2_000_000

HeatmapView = Literal["overlay", "map"]


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How a heatmap is shown. Stored with a heatmap job.

    Attributes:
        shown: Over its image, or alone.
        colormap: Its colors.
        alpha: Opacity of the heatmap over the image, 0 to 1.
        legend: Whether to add a title and a color bar.
        compact: Whether an overlay's file is made small, which takes longer than drawing it.
    """

    shown: HeatmapView
    colormap: Colormap
    alpha: float
    legend: bool
    compact: bool = False


@dataclass(frozen=True, slots=True)
class HeatmapLayer:
    """One heatmap of an image.

    Attributes:
        grid: Values in 0..1, shape (rows, columns).
        title: For the legend.
    """

    grid: Grid
    title: str


def render(
    source: bytes | Image.Image,
    layers: Sequence[HeatmapLayer],
    *,
    size: Size,
    box: Box,
    options: RenderOptions,
    max_pixels: int,
    check: Callable[[], None] = no_check,
) -> bytes:
    """The PNG: one heatmap at the image's own size, or several side by side.

    Args:
        source: The file that was sent, or the decoded image, which is drawn on.
        layers: At least one.
        size: The image's, upright.
        box: The part of the image that the network saw.
        options: How to show it.
        max_pixels: Limit of the image and of the result: an image that is shown several times is
            made smaller before it is drawn on.
        check: Called before every long step; may raise to stop.

    Raises:
        InvalidImage: The file cannot be read.
    """
    share = max_pixels // len(layers)
    image = _image(source, max_pixels) if options.shown == "overlay" else None
    if image is not None:
        image = bounded(image, share)
    drawn_size = bounded_size(size, share)
    box = _scaled(box, size, drawn_size)
    colors = colors_of(options.colormap)
    images = []
    for layer in layers:
        check()
        if image is None:
            drawn = map_alone(drawn_size, layer.grid, box, colors=colors)
        else:
            drawn = image.copy() if len(layers) > 1 else image
            draw_overlay(drawn, layer.grid, box, colors=colors, alpha=options.alpha)
        images.append(with_legend(drawn, layer.title, colors) if options.legend else drawn)
    whole = images[0] if len(images) == 1 else side_by_side(images)
    return png(whole, "drawing" if image is None else _packing(whole, options), check)


def _image(source: bytes | Image.Image, max_pixels: int) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    return decode_upright(source, max_pixels=max_pixels)


def _packing(overlay: Image.Image, options: RenderOptions) -> Packing:
    large = overlay.width * overlay.height > _MAX_STORED_PIXELS
    return "photo" if options.compact or large else "stored"


def bounded(image: Image.Image, pixels: int) -> Image.Image:
    """The image, made smaller if it has more pixels."""
    size = bounded_size(image.size, pixels)
    return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)


def bounded_size(size: Size, pixels: int) -> Size:
    """The size, made smaller if it has more pixels."""
    scale = (pixels / (size[0] * size[1])) ** 0.5
    return size if scale >= 1 else (max(1, int(size[0] * scale)), max(1, int(size[1] * scale)))


def _scaled(box: Box, size: Size, to: Size) -> Box:
    across, down = to[0] / size[0], to[1] / size[1]
    left, top, right, bottom = box
    return left * across, top * down, right * across, bottom * down
