"""The common style of the charts, and their conversion to PNG.

Does not use pyplot, which keeps every figure alive and has settings for the whole process.
"""

import io

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

INK = "#1b1f24"
FAINT = "#6b7480"
RULE = "#dfe3e8"
BLUE = "#2f6fde"
ORANGE = "#e07b1f"
SHADE = "#f3f5f8"


def figure(width: float, height: float) -> Figure:
    """An empty white figure; the size is in inches of 100 pixels."""
    new = Figure(figsize=(width, height), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(new)
    return new


def tidy(axes: Axes) -> None:
    """Remove the parts of the frame that are not needed to read the numbers."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULE)
    axes.tick_params(colors=FAINT, labelsize=9, length=0)
    axes.grid(visible=True, axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)


def plain(text: Text) -> Text:
    """Show a text literally: a `$` in the name of a user's folder does not start a formula."""
    text.set_parse_math(False)
    return text


def png(chart: Figure, *, colors: int | None = 256) -> bytes:
    """The figure as a PNG.

    Args:
        chart: Not used afterwards.
        colors: Size of the palette, which makes a chart's file three times smaller; None for
            photos.
    """
    drawn, packed = io.BytesIO(), io.BytesIO()
    chart.savefig(drawn, format="png")
    with Image.open(drawn) as image:
        plain_colors = image.convert("RGB")
    if colors is not None:
        plain_colors = plain_colors.quantize(colors, dither=Image.Dither.NONE)
    plain_colors.save(packed, "PNG", optimize=True)
    return packed.getvalue()


def colored(values: npt.NDArray[np.float32], colors: str) -> npt.NDArray[np.uint8]:
    """Map values in 0 to 1 to a color scale: (h, w) to uint8 (h, w, 3)."""
    rgba: npt.NDArray[np.uint8] = colormaps[colors](values, bytes=True)
    return rgba[..., :3]
