"""Draws `det.png`: histograms of genuine and impostor pairs, and the trade-off of their errors.

The DET curve has normal-deviate axes (A. Martin et al., "The DET curve in assessment of detection
task performance", Eurospeech 1997), on which normally distributed scores give a straight line. The
area left of the smallest rate that the pairs support is shaded.
"""

from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from contracts.faces.calibration import Calibration
from models.faces.calibration.calibration import det_curve
from models.faces.calibration.comparisons import Comparisons
from models.training.report.chart_style import (
    BLUE,
    FAINT,
    INK,
    ORANGE,
    RULE,
    SHADE,
    figure,
    png,
    tidy,
)

_TICKS = (1e-6, 1e-5, 1e-4, 1e-3, 0.003, 0.01, 0.03, 0.1, 0.3)
_MIN_RATE, _MAX_RATE = 1e-7, 0.6
_CURVE_POINTS = 400
_BINS = 60
_MAX_LOW = 0.9  # so that the histograms of faces that are all alike have a width

Values = npt.NDArray[np.float64]


def det_chart(comparisons: Comparisons, calibration: Calibration, title: str) -> bytes:
    """Draw the chart; returns a PNG of 1200 x 560 pixels."""
    chart = figure(12, 5.6)
    left, right = chart.subplots(1, 2, width_ratios=(1, 1.05))
    _draw_scores(left, comparisons, calibration)
    _draw_curve(right, comparisons, calibration)
    chart.suptitle(
        f"{title}: {calibration.faces:,} faces of {calibration.people:,} people",
        x=0.012, ha="left", color=INK, fontsize=13, weight="bold", parse_math=False,
    )  # fmt: skip
    return png(chart)


def _draw_scores(axes: Axes, comparisons: Comparisons, calibration: Calibration) -> None:
    """Histograms, each in percent of its pairs, and the threshold."""
    tidy(axes)
    low = min(float(comparisons.impostor[-1]), float(comparisons.genuine[0]), _MAX_LOW)
    edges = np.linspace(low, 1, _BINS)
    pairs = (
        (comparisons.impostor, ORANGE, "different people"),
        (comparisons.genuine, BLUE, "the same person"),
    )
    for scores, color, label in pairs:
        shares = np.histogram(scores, edges)[0] * 100 / len(scores)
        axes.stairs(
            shares, edges, color=color, fill=True, alpha=0.35, linewidth=0,
            label=f"{label}, {len(scores):,} pairs",
        )  # fmt: skip
        axes.stairs(shares, edges, color=color, linewidth=1.5)
    axes.axvline(calibration.threshold, color=INK, linewidth=1.2)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.22)  # room for the legend
    axes.annotate(
        f"threshold {calibration.threshold:.3f}", (calibration.threshold, 0.78),
        xycoords=("data", "axes fraction"), xytext=(-6, 0), textcoords="offset points",
        ha="right", color=INK, fontsize=9,
    )  # fmt: skip
    axes.set_xlabel("similarity (cosine)", color=FAINT, fontsize=9)
    axes.set_ylabel("% of pairs", color=FAINT, fontsize=9)
    axes.legend(loc="upper left", frameon=False, fontsize=9, labelcolor=INK)


def _draw_curve(axes: Axes, comparisons: Comparisons, calibration: Calibration) -> None:
    tidy(axes)
    axes.grid(visible=True, axis="both", color=RULE, linewidth=0.8)
    points = det_curve(comparisons, _CURVE_POINTS)
    x = _deviates([point.fmr for point in points])
    y = _deviates([point.fnmr for point in points])
    supported = calibration.smallest_supported_fmr
    lowest = min(supported / 10, calibration.target_fmr / 3)
    lowest_fnmr = min(0.3 / len(comparisons.genuine), 1e-3)
    axes.axvspan(*_deviates([_MIN_RATE, supported]), color=SHADE, zorder=0, linewidth=0)
    axes.plot(x, y, color=BLUE, linewidth=2, drawstyle="steps-post")
    axes.plot(*[_deviates([_MIN_RATE, _MAX_RATE])] * 2, color=FAINT, linewidth=0.8, linestyle=":")
    _draw_point(axes, calibration)
    _scale(
        axes,
        lowest,
        lowest_fnmr,
        float(np.clip(20 * calibration.equal_error_rate, 0.05, _MAX_RATE)),
    )
    axes.annotate(
        f"not supported by {len(comparisons.impostor):,} pairs",
        (float(_deviates([supported])[0]), 0.02), xycoords=("data", "axes fraction"),
        xytext=(-5, 0), textcoords="offset points", ha="right", va="bottom", rotation=90,
        color=FAINT, fontsize=8,
    )  # fmt: skip


def _draw_point(axes: Axes, calibration: Calibration) -> None:
    """Draw the threshold as a ring, and the intervals of both rates as a cross."""
    fmr, fnmr = calibration.fmr, calibration.fnmr
    x, y = _deviates([fmr.rate or 0]), _deviates([fnmr.rate or 0])
    axes.plot(_deviates(list(fmr.interval)), [y[0]] * 2, color=ORANGE, linewidth=1.6)
    axes.plot([x[0]] * 2, _deviates(list(fnmr.interval)), color=ORANGE, linewidth=1.6)
    axes.plot(
        x, y, marker="o", markersize=9, markerfacecolor="white", markeredgecolor=ORANGE,
        markeredgewidth=2, linestyle="none",
    )  # fmt: skip
    axes.annotate(
        f"FMR {fmr.rate:.2%}  ({fmr.interval[0]:.2%} to {fmr.interval[1]:.2%})\n"
        f"FNMR {fnmr.rate:.2%}  ({fnmr.interval[0]:.2%} to {fnmr.interval[1]:.2%})\n"
        f"equal error rate {calibration.equal_error_rate:.2%}",
        (0.23, 0.97), xycoords="axes fraction", va="top", color=INK, fontsize=9,
    )  # fmt: skip


def _scale(axes: Axes, lowest: float, lowest_fnmr: float, highest: float) -> None:
    axes.set_xlim(*_deviates([lowest, highest]))
    axes.set_ylim(*_deviates([lowest_fnmr, highest]))
    ticks = _deviates(list(_TICKS))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(list(ticks)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda deviate, _: f"{NormalDist().cdf(deviate) * 100:.4g}%")
    axes.set_xlabel("false match rate (FMR)", color=FAINT, fontsize=9)
    axes.set_ylabel("false non-match rate (FNMR)", color=FAINT, fontsize=9)


def _deviates(rates: list[float]) -> Values:
    """The normal deviates of rates, with 0 and 1 clipped to the ends of the axis."""
    inverse = NormalDist().inv_cdf
    return np.array([inverse(min(max(rate, _MIN_RATE), 1 - _MIN_RATE)) for rate in rates])
