"""`confusion_matrix.png`: which class was taken for which, readable from 2 classes to 200."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from models.training.report.figures import FAINT, INK, RULE, figure, plain, png
from models.training.report.scores import Counts

_COLORS = "Blues"
_DARK = 0.55  # from this share on, white reads better than ink
_LONGEST = 24
_COUNTED = 60  # with more classes the numbers would be specks


def confusion_chart(counts: Counts, labels: Sequence[str], split: str) -> bytes:
    """The picture: a cell's color is its share of the true class, its number the pictures.

    Args:
        counts: A row a true class, a column a predicted one.
        labels: The classes' names in that order.
        split: What it was measured on.

    Returns:
        A PNG whose sides grow with the classes, from about 500 to 2200 pixels.
    """
    classes = len(labels)
    side = float(np.clip(2.2 + 0.42 * classes, 3.4, 20))
    longest = min(_LONGEST, max(len(label) for label in labels)) * _font(classes) / 120
    chart = figure(side + longest + 1.2, side + longest)
    axes = chart.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap=_COLORS, vmin=0, vmax=1)
    _name_axes(axes, labels)
    if classes <= _COUNTED:
        _write_counts(axes, counts, shares)
    else:
        _ring_mistakes(axes, counts)
    right, all_of_them = int(np.trace(counts)), int(counts.sum())
    axes.set_title(
        f"{right / max(all_of_them, 1):.1%} right: {right:,} of {all_of_them:,} {split} pictures",
        loc="left", color=INK, fontsize=11 + min(classes, 60) / 15, weight="bold", pad=10,
    )  # fmt: skip
    bar = chart.colorbar(image, ax=axes, fraction=0.03, pad=0.02, format=PercentFormatter(1.0))
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=FAINT, labelsize=8, length=0)
    bar.set_label("share of the true class", color=FAINT, fontsize=8.5)
    return png(chart)


def _font(classes: int) -> float:
    return float(np.clip(11 - classes / 12, 6, 10))


def _name_axes(axes: Axes, labels: Sequence[str]) -> None:
    classes, size = len(labels), _font(len(labels))
    names = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in labels]
    places = range(classes)
    axes.set_xticks(places, names, rotation=90 if classes > 3 else 0, fontsize=size)
    axes.set_yticks(places, names, fontsize=size)
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        plain(text).set_color(INK)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted", color=FAINT, fontsize=10)
    axes.set_ylabel("true", color=FAINT, fontsize=10)
    for spine in axes.spines.values():
        spine.set_color(RULE)
    axes.set_xticks(np.arange(0.5, classes - 1), minor=True)
    axes.set_yticks(np.arange(0.5, classes - 1), minor=True)
    axes.tick_params(which="minor", length=0)
    axes.grid(which="minor", color=RULE, linewidth=0.6)


def _write_counts(axes: Axes, counts: Counts, shares: npt.NDArray[np.float64]) -> None:
    """The number of pictures in each cell that has any."""
    size = float(np.clip(13 - len(counts) / 6, 5.5, 12))
    for row, column in np.argwhere(counts):
        axes.text(
            column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=size,
            color="white" if shares[row, column] > _DARK else INK,
        )  # fmt: skip


def _ring_mistakes(axes: Axes, counts: Counts) -> None:
    """A red dot on each cell of mistakes, whose pale blue nobody would find among thousands."""
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    rows, columns = np.nonzero(wrong)
    axes.scatter(columns, rows, s=6 + 2 * wrong[rows, columns], color="#d1342f", linewidths=0)
