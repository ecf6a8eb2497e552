"""`mistakes.png`: the most confident mistakes, each with its heatmap.

They show whether a label is wrong or an image is difficult, and whether the model looks at the
object or at the background.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from PIL import Image

from contracts.queue.messages import Pixels
from contracts.training.training_result import Mistake
from models.training.report.chart_style import FAINT, INK, RULE, colored, figure, plain, png

MAX_MISTAKES = 12
_COLUMNS = 3
_SIDE, _BETWEEN, _GAP = (
    1.75,
    0.06,
    0.25,
)  # inches: image side, space between the two images, space around them
_CAPTION, _TITLE = 0.5, 0.55
_CELL = (2 * _SIDE + _BETWEEN + _GAP, _SIDE + _CAPTION + _GAP)
_COLORS = "jet"
_ALPHA = 0.5
_MAX_NAME_LENGTH = 28

Size = tuple[float, float]


@dataclass(frozen=True, slots=True)
class ExplainedMistake:
    """A mistake and its heatmap.

    Attributes:
        mistake: Names and probabilities.
        pixels: The network's input, uint8 (h, w, 3).
        grid: Heatmap of the predicted class, float32 (gh, gw) in 0 to 1.
    """

    mistake: Mistake
    pixels: Pixels
    grid: npt.NDArray[np.float32]


def mistakes_sheet(mistakes: Sequence[ExplainedMistake]) -> bytes:
    """Draw the sheet.

    Args:
        mistakes: At most `MAX_MISTAKES`, the most confident first; may be empty.

    Returns:
        A PNG of up to four rows of three, each the image and its overlay with the heatmap.
    """
    if not mistakes:
        return _empty_sheet()
    columns = min(_COLUMNS, len(mistakes))
    rows = -(-len(mistakes) // columns)
    page = (columns * _CELL[0] + _GAP, rows * _CELL[1] + _TITLE)
    chart = figure(*page)
    chart.set_layout_engine("none")
    chart.text(
        _GAP / page[0], 1 - 0.32 / page[1], "The most confident mistakes",
        color=INK, fontsize=12, weight="bold",
    )  # fmt: skip
    for index, explained in enumerate(mistakes):
        row, column = divmod(index, columns)
        left, top = _GAP + column * _CELL[0], page[1] - _TITLE - row * _CELL[1]
        pair = (explained.pixels, overlay(explained.pixels, explained.grid))
        for side, pixels in enumerate(pair):
            corner = (left + side * (_SIDE + _BETWEEN), top - _CAPTION - _SIDE)
            axes = chart.add_axes(_share(corner, page))
            _show(axes, pixels)
            if side == 0:
                _caption(axes, explained.mistake)
    return png(chart, colors=None)


def _share(corner: Size, page: Size) -> tuple[float, float, float, float]:
    """An image's rectangle as shares of the page; the corner is the lower left one, in inches."""
    return corner[0] / page[0], corner[1] / page[1], _SIDE / page[0], _SIDE / page[1]


def overlay(pixels: Pixels, grid: npt.NDArray[np.float32]) -> Pixels:
    """The image under its heatmap, which is more opaque where the values are higher."""
    height, width = pixels.shape[:2]
    coarse = Image.fromarray(grid.astype(np.float32))
    heat = np.clip(np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)), 0, 1)
    alpha = _ALPHA * np.sqrt(heat)[..., None]
    blended = (1 - alpha) * pixels + alpha * colored(heat, _COLORS)
    mixed: Pixels = blended.round().astype(np.uint8)
    return mixed


def _show(axes: Axes, pixels: Pixels) -> None:
    axes.imshow(pixels, interpolation="nearest" if max(pixels.shape) < 64 else "antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(RULE)
    axes.set_anchor("NW")


def _caption(axes: Axes, mistake: Mistake) -> None:
    """Write a caption above both images, aligned with the first."""
    lines = (
        (1.145, f"{_short(mistake.predicted)}  {mistake.probability:.0%}", INK, 10, "bold"),
        (1.025, f"is {_short(mistake.label)}  {mistake.label_probability:.0%}", FAINT, 9, "normal"),
    )
    for height, text, color, size, weight in lines:
        plain(
            axes.text(
                0, height, text, transform=axes.transAxes, color=color, fontsize=size,
                weight=weight, va="bottom", ha="left",
            )
        )  # fmt: skip


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME_LENGTH else f"{name[: _MAX_NAME_LENGTH - 1]}…"


def _empty_sheet() -> bytes:
    chart = figure(6, 1.2)
    chart.text(
        0.5, 0.5, "No mistakes on the held-out images.",
        ha="center", va="center", color=INK, fontsize=13,
    )  # fmt: skip
    return png(chart)
