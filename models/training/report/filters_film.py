"""`filters.gif`: a layer's kernels as they evolve from noise, every frame on one scale of colors.

A kernel of three channels is shown in its colors, one of one channel in grey; of a deeper layer
the mean over the channels is shown, orange where it adds and blue where it takes away.
"""

import io
from collections.abc import Sequence
from math import ceil

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from models.training.report.figures import FAINT, INK, RULE, colored
from models.training.trained import FilterFrame

MOST_FRAMES = 60
_MOST_KERNELS = 64
_TILE = 44  # pixels of a tile's longer side, before rounding to whole pixels of the kernel
_GAP, _MARGIN, _HEADER = 4, 12, 30
_FRAME_MS, _LAST_MS = 120, 1500
_DIVERGING = "RdBu_r"

Tiles = npt.NDArray[np.uint8]
"""(kernels, height, width, 3): each kernel as a small picture."""


def filters_film(frames: Sequence[FilterFrame], layer: str) -> bytes:
    """The film.

    Args:
        frames: At least one, in the order of their steps; of more than 60 it shows 60.
        layer: What they are the kernels of.

    Returns:
        An animated GIF that runs for ever, resting on its last frame.
    """
    shown = _thinned(frames)
    pictures = [
        _page(tiles, f"{layer}   step {frame.step:,}", frame.step / max(1, shown[-1].step))
        for frame, tiles in zip(shown, _tiles_of(shown), strict=True)
    ]
    # One palette for all frames: colors that change their number flicker.
    palette = _side_by_side(pictures).quantize(255, dither=Image.Dither.NONE)
    flat = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in pictures]
    film = io.BytesIO()
    flat[0].save(
        film, "GIF", save_all=True, append_images=flat[1:], loop=0, disposal=1,
        duration=[_FRAME_MS] * (len(flat) - 1) + [_LAST_MS],
    )  # fmt: skip
    return film.getvalue()


def _thinned(frames: Sequence[FilterFrame]) -> list[FilterFrame]:
    """At most `MOST_FRAMES`, evenly spread, the first and the last among them."""
    places = np.linspace(0, len(frames) - 1, min(MOST_FRAMES, len(frames)))
    return [frames[int(place)] for place in places.round()]


def _tiles_of(frames: Sequence[FilterFrame]) -> list[Tiles]:
    """The kernels of each frame as pictures, zero in the middle, the film's extreme at the end."""
    kernels = [_seen(frame.kernels) for frame in frames]
    # A kernel is scaled by its own extreme, or those of small weights would all look grey.
    extreme = np.max([np.abs(one).max(axis=(1, 2, 3)) for one in kernels], axis=0)
    scale = np.where(extreme > 0, extreme, 1)[:, None, None, None]
    deep = frames[0].kernels.shape[2] not in {1, 3}
    return [_colors(0.5 + one / (2 * scale), deep=deep) for one in kernels]


def _seen(kernels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The first filters as pictures of one or three channels: (kernels, h, w, 1 or 3)."""
    first = kernels[..., :_MOST_KERNELS]
    if first.shape[2] not in {1, 3}:
        first = first.mean(axis=2, keepdims=True)
    return np.moveaxis(first, -1, 0)


def _colors(values: npt.NDArray[np.float32], *, deep: bool) -> Tiles:
    if deep:
        return np.stack([colored(one[..., 0], _DIVERGING) for one in values])
    levels = (values * 255).round().clip(0, 255).astype(np.uint8)
    return np.repeat(levels, 3, axis=-1) if levels.shape[-1] == 1 else levels


def _page(tiles: Tiles, title: str, done: float) -> Image.Image:
    """One frame: the title, a line that fills as the film runs, and the kernels in rows."""
    count, height, width = tiles.shape[:3]
    columns = ceil(count**0.5 * 1.3)
    factor = max(1, _TILE // max(height, width))
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
    for index, tile in enumerate(tiles):
        x = _MARGIN + index % columns * step_x
        y = _MARGIN + _HEADER + index // columns * step_y
        big = Image.fromarray(tile).resize(
            (width * factor, height * factor), Image.Resampling.NEAREST
        )
        page.paste(big, (x, y))
    return page


def _side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """A few frames as one picture, to choose the palette from."""
    chosen = [*pictures[:: ceil(len(pictures) / 8)], pictures[-1]]
    width, height = pictures[0].size
    sheet = Image.new("RGB", (width * len(chosen), height))
    for index, picture in enumerate(chosen):
        sheet.paste(picture, (index * width, 0))
    return sheet
