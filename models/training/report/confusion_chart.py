"""`confusion_matrix.png`: the confusion matrix, readable from 2 classes to 200."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from models.training.report.chart_style import FAINT, INK, RULE, figure, plain, png
from models.training.report.scores import Counts

_COLORS = "Blues"
_DARK = 0.55  # above this share, white text is more readable
_MAX_NAME_LENGTH = 24
_MAX_COUNTED_CLASSES = 60  # with more classes the numbers would be too small


def confusion_chart(counts: Counts, labels: Sequence[str], split: str) -> bytes:
    """Draw the matrix: color shows the share of the true class, the number counts images.

    Args:
        counts: One row per true class, one column per predicted class.
        labels: Names of the classes, in the same order.
        split: Name of the evaluated split.

    Returns:
        A PNG whose sides grow with the number of classes, from about 500 to 2200 pixels.
    """
    classes = len(labels)
    side = float(np.clip(2.2 + 0.42 * classes, 3.4, 20))
    longest = min(_MAX_NAME_LENGTH, max(len(label) for label in labels)) * _font(classes) / 120
    chart = figure(side + longest + 1.2, side + longest)
    axes = chart.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap=_COLORS, vmin=0, vmax=1)
    _name_axes(axes, labels)
    if classes <= _MAX_COUNTED_CLASSES:
        _write_counts(axes, counts, shares)
    else:
        _mark_mistakes(axes, counts)
    correct, total = int(np.trace(counts)), int(counts.sum())
    axes.set_title(
        f"{correct / max(total, 1):.1%} correct: {correct:,} of {total:,} {split} images",
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
    names = [
        name if len(name) <= _MAX_NAME_LENGTH else f"{name[: _MAX_NAME_LENGTH - 1]}…"
        for name in labels
    ]
    ticks = range(classes)
    axes.set_xticks(ticks, names, rotation=90 if classes > 3 else 0, fontsize=size)
    axes.set_yticks(ticks, names, fontsize=size)
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
    """Write the number of images into each cell that has any."""
    size = float(np.clip(13 - len(counts) / 6, 5.5, 12))
    for row, column in np.argwhere(counts):
        axes.text(
            column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=size,
            color="white" if shares[row, column] > _DARK else INK,
        )  # fmt: skip


def _mark_mistakes(axes: Axes, counts: Counts) -> None:
    """Mark mistakes with red dots, as pale cells are hard to see among thousands."""
    mistakes = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    rows, columns = np.nonzero(mistakes)
    axes.scatter(columns, rows, s=6 + 2 * mistakes[rows, columns], color="#d1342f", linewidths=0)
