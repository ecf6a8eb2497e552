"""`mistakes.png`: the pictures a model was surest of and wrong about, each with its heatmap.

One look tells a wrong label from a hard picture, and a model that watches the background from one
that watches the thing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from PIL import Image

from contracts.queue.messages import Pixels
from contracts.training.training_result import Mistake
from models.training.report.figures import FAINT, INK, RULE, colored, figure, plain, png

MOST = 12
_COLUMNS = 3
_SIDE, _BETWEEN, _GAP = 1.75, 0.06, 0.25  # inches: a picture, between the two, around them
_CAPTION, _TITLE = 0.5, 0.55
_CELL = (2 * _SIDE + _BETWEEN + _GAP, _SIDE + _CAPTION + _GAP)
_COLORS = "jet"
_ALPHA = 0.5
_LONGEST = 28

Size = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Explained:
    """A mistake, and where the model looked.

    Attributes:
        mistake: What was got wrong.
        pixels: The picture as the network saw it, uint8 (h, w, 3).
        grid: Evidence for the class that was predicted, float32 (gh, gw) in 0..1.
    """

    mistake: Mistake
    pixels: Pixels
    grid: npt.NDArray[np.float32]


def mistakes_sheet(found: Sequence[Explained]) -> bytes:
    """The picture.

    Args:
        found: At most `MOST`, the worst first; may be empty.

    Returns:
        A PNG of up to four rows of three, each the picture and the same under its heatmap.
    """
    if not found:
        return _nothing()
    columns = min(_COLUMNS, len(found))
    rows = -(-len(found) // columns)
    page = (columns * _CELL[0] + _GAP, rows * _CELL[1] + _TITLE)
    chart = figure(*page)
    chart.set_layout_engine("none")
    chart.text(
        _GAP / page[0], 1 - 0.32 / page[1], "The surest mistakes, and what the model saw in them",
        color=INK, fontsize=12, weight="bold",
    )  # fmt: skip
    for index, one in enumerate(found):
        row, column = divmod(index, columns)
        left, top = _GAP + column * _CELL[0], page[1] - _TITLE - row * _CELL[1]
        for number, pixels in enumerate((one.pixels, overlay(one.pixels, one.grid))):
            corner = (left + number * (_SIDE + _BETWEEN), top - _CAPTION - _SIDE)
            axes = chart.add_axes(_share(corner, page))
            _show(axes, pixels)
            if number == 0:
                _caption(axes, one.mistake)
    return png(chart, colors=None)


def _share(corner: Size, page: Size) -> tuple[float, float, float, float]:
    """A picture's place, given in inches from the lower left, in shares of the page."""
    return corner[0] / page[0], corner[1] / page[1], _SIDE / page[0], _SIDE / page[1]


def overlay(pixels: Pixels, grid: npt.NDArray[np.float32]) -> Pixels:
    """The picture under its heatmap: stronger evidence hides more of it."""
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
    """Above both pictures, from the left edge of the first."""
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
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _nothing() -> bytes:
    chart = figure(6, 1.2)
    chart.text(
        0.5, 0.5, "No mistakes on the held-out pictures.",
        ha="center", va="center", color=INK, fontsize=13,
    )  # fmt: skip
    return png(chart)
