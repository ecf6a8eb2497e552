"""`filters.gif` and `response.gif`: a layer as it develops, with one color scale throughout.

The first shows its kernels, the second what it makes of one held-out image, channel by channel.

Kernels of three channels are shown in color, kernels of one channel in gray. Of a deeper layer the
mean over the channels is shown, orange for positive and blue for negative values.
"""

import io
from collections.abc import Sequence
from math import ceil
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from models.training.report.chart_style import FAINT, INK, RULE, colored
from models.training.trained import FilterFrame, ResponseFrame

MAX_FRAMES = 60
_MAX_KERNELS = 64
_TILE = 44  # pixels of a kernel's longer side, before rounding to whole pixels of the kernel
_RESPONSE_TILE = 96
_GAP, _MARGIN, _HEADER = 4, 12, 30
_FRAME_MS, _LAST_MS = 120, 1500
_DIVERGING = "RdBu_r"
_RESPONSE = "magma"

FrameT = TypeVar("FrameT")

Tiles = npt.NDArray[np.uint8]
"""(kernels, height, width, 3): each kernel as a small image."""


def filters_animation(frames: Sequence[FilterFrame], layer: str) -> bytes:
    """Draw the animation.

    Args:
        frames: At least one, in the order of their steps; at most `MAX_FRAMES` of them are shown.
        layer: Name of the layer.

    Returns:
        An animated GIF that loops and pauses on its last frame.
    """
    shown = _thinned(frames)
    return _animated(_tiles(shown), [frame.step for frame in shown], layer, _TILE)


def response_animation(frames: Sequence[ResponseFrame], layer: str) -> bytes:
    """Draw the animation of a layer's response to one image.

    Args:
        frames: At least one, in the order of their steps; at most `MAX_FRAMES` of them are shown.
        layer: Name of the layer.

    Returns:
        An animated GIF as from `filters_animation`, each channel from its weakest response (dark)
        to its strongest (bright) in any frame.
    """
    shown = _thinned(frames)
    maps = np.stack([np.moveaxis(frame.maps, -1, 0) for frame in shown]).astype(np.float32)
    low = maps.min(axis=(0, 2, 3), keepdims=True)
    extent = maps.max(axis=(0, 2, 3), keepdims=True) - low
    scaled = (maps - low) / np.where(extent > 0, extent, 1)
    tiles = [np.stack([colored(image, _RESPONSE) for image in frame]) for frame in scaled]
    return _animated(tiles, [frame.step for frame in shown], layer, _RESPONSE_TILE)


def _animated(tiles: Sequence[Tiles], steps: Sequence[int], layer: str, tile: int) -> bytes:
    images = [
        _draw_frame(frame, f"{layer}   step {step:,}", step / max(1, steps[-1]), tile)
        for frame, step in zip(tiles, steps, strict=True)
    ]
    # One palette for all frames: colors whose palette index changes would flicker.
    palette = _side_by_side(images).quantize(255, dither=Image.Dither.NONE)
    indexed = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    gif = io.BytesIO()
    indexed[0].save(
        gif, "GIF", save_all=True, append_images=indexed[1:], loop=0, disposal=1,
        duration=[_FRAME_MS] * (len(indexed) - 1) + [_LAST_MS],
    )  # fmt: skip
    return gif.getvalue()


def _thinned(frames: Sequence[FrameT]) -> list[FrameT]:
    """At most `MAX_FRAMES`, evenly spaced, including the first and the last."""
    indices = np.linspace(0, len(frames) - 1, min(MAX_FRAMES, len(frames)))
    return [frames[int(index)] for index in indices.round()]


def _tiles(frames: Sequence[FilterFrame]) -> list[Tiles]:
    """The kernels of each frame as images, with zero in the middle of the color scale."""
    kernels = [_as_images(frame.kernels) for frame in frames]
    # Each kernel is scaled by its own extreme over all frames; otherwise small ones are all gray.
    extreme = np.max([np.abs(images).max(axis=(1, 2, 3)) for images in kernels], axis=0)
    scale = np.where(extreme > 0, extreme, 1)[:, None, None, None]
    diverging = frames[0].kernels.shape[2] not in {1, 3}
    return [_colors(0.5 + images / (2 * scale), diverging=diverging) for images in kernels]


def _as_images(kernels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The first kernels as images of one or three channels: (kernels, h, w, 1 or 3)."""
    first = kernels[..., :_MAX_KERNELS]
    if first.shape[2] not in {1, 3}:
        first = first.mean(axis=2, keepdims=True)
    return np.moveaxis(first, -1, 0)


def _colors(values: npt.NDArray[np.float32], *, diverging: bool) -> Tiles:
    if diverging:
        return np.stack([colored(image[..., 0], _DIVERGING) for image in values])
    levels = (values * 255).round().clip(0, 255).astype(np.uint8)
    return np.repeat(levels, 3, axis=-1) if levels.shape[-1] == 1 else levels


def _draw_frame(tiles: Tiles, title: str, done: float, tile: int) -> Image.Image:
    """One frame: the title, a progress line, and the tiles in rows, their sides about `tile`."""
    count, height, width = tiles.shape[:3]
    columns = ceil(count**0.5 * 1.3)
    factor = max(1, tile // max(height, width))
    step_x, step_y = width * factor + _GAP, height * factor + _GAP
    size = (
        max(2 * _MARGIN + columns * step_x - _GAP, 260),
        2 * _MARGIN + ceil(count / columns) * step_y - _GAP + _HEADER,
    )
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN - 4), title, INK, font=ImageFont.load_default(14))
    end, line = size[0] - _MARGIN, _MARGIN + _HEADER - 10
    draw.line((_MARGIN, line, end, line), RULE, 2)
    if done:
        draw.line((_MARGIN, line, _MARGIN + done * (end - _MARGIN), line), FAINT, 2)
    for index, pixels in enumerate(tiles):
        x = _MARGIN + index % columns * step_x
        y = _MARGIN + _HEADER + index // columns * step_y
        enlarged = Image.fromarray(pixels).resize(
            (width * factor, height * factor), Image.Resampling.NEAREST
        )
        page.paste(enlarged, (x, y))
    return page


def _side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """A few frames as one image, to choose the palette from."""
    chosen = [*images[:: ceil(len(images) / 8)], images[-1]]
    width, height = images[0].size
    sheet = Image.new("RGB", (width * len(chosen), height))
    for index, image in enumerate(chosen):
        sheet.paste(image, (index * width, 0))
    return sheet
