"""`curves.png`: loss and accuracy of training and validation over the epochs of all phases."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from models.training.report.chart_style import (
    BLUE,
    FAINT,
    INK,
    ORANGE,
    SHADE,
    figure,
    plain,
    png,
    tidy,
)

_PHASES = {"head": "head", "finetune": "fine-tuning", "scratch": "from scratch"}
_LINES = (("", "training", BLUE), ("val_", "validation", ORANGE))
_MAX_MARKERS = 40  # with more points the markers overlap

Row = Mapping[str, Any]


def curves_chart(history: Sequence[Row], best_epochs: Mapping[str, int]) -> bytes:
    """Draw the curves.

    Args:
        history: One row per epoch, in order: `epoch`, `phase`, `loss`, `accuracy` and, with a
            validation split, `val_loss` and `val_accuracy`.
        best_epochs: By phase, the epoch whose weights were kept.

    Returns:
        A PNG, 1000 x 420 pixels.
    """
    chart = figure(10, 4.2)
    left, right = chart.subplots(1, 2)
    for axes, quantity in ((left, "loss"), (right, "accuracy")):
        tidy(axes)
        _draw_lines(axes, history, quantity)
        _draw_phases(axes, history)
        _draw_best(axes, history, best_epochs, quantity)
        axes.set_title(quantity.capitalize(), loc="left", color=INK, fontsize=12, weight="bold")
        axes.set_xlabel("epoch", color=FAINT, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(0.5, len(history) + 0.5)
    right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    left.set_ylim(bottom=0)
    right.set_ylim(top=min(1.02, right.get_ylim()[1] + 0.02))
    handles, labels = left.get_legend_handles_labels()
    chart.legend(
        handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9,
        labelcolor=INK,
    )  # fmt: skip
    return png(chart)


def _draw_lines(axes: Axes, history: Sequence[Row], quantity: str) -> None:
    for prefix, label, color in _LINES:
        points = [
            (number, row[prefix + quantity])
            for number, row in enumerate(history, 1)
            if row.get(prefix + quantity) is not None
        ]
        if points:
            marker = "o" if len(points) <= _MAX_MARKERS else None
            axes.plot(
                *zip(*points, strict=True), color=color, label=label, linewidth=2,
                marker=marker, markersize=4,
            )  # fmt: skip


def _draw_phases(axes: Axes, history: Sequence[Row]) -> None:
    """Shade every second phase and write their names above them, if there are several."""
    rows = list(enumerate(history, 1))
    phases = [list(part) for _, part in groupby(rows, key=lambda pair: pair[1].get("phase"))]
    if len(phases) < 2:
        return
    for index, part in enumerate(phases):
        first, last = part[0][0] - 0.5, part[-1][0] + 0.5
        if index % 2:
            axes.axvspan(first, last, color=SHADE, zorder=0, linewidth=0)
        name = str(part[0][1].get("phase"))
        plain(
            axes.text(
                (first + last) / 2, 1.005, _PHASES.get(name, name), color=FAINT, fontsize=8.5,
                ha="center", va="bottom", transform=axes.get_xaxis_transform(),
            )
        )  # fmt: skip


def _draw_best(
    axes: Axes, history: Sequence[Row], best_epochs: Mapping[str, int], quantity: str
) -> None:
    """Draw a ring around each epoch whose weights were kept."""
    key = f"val_{quantity}"
    for number, row in enumerate(history, 1):
        if best_epochs.get(str(row.get("phase"))) == row.get("epoch") and row.get(key) is not None:
            axes.plot(
                number, row[key], marker="o", markersize=11, markerfacecolor="none",
                markeredgecolor=ORANGE, markeredgewidth=1.5, linestyle="none",
                clip_on=False,  # a ring at a loss of 0 is whole
                label="weights kept" if not _has_label(axes, "weights kept") else None,
            )  # fmt: skip


def _has_label(axes: Axes, label: str) -> bool:
    return label in axes.get_legend_handles_labels()[1]
