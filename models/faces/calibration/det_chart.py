"""`det.png`: how alike genuine and impostor pairs are, and the trade between their errors.

The curve stands on normal-deviate axes (A. Martin et al., "The DET curve in assessment of detection
task performance", Eurospeech 1997), on which bell-shaped scores make a straight line; what lies
left of the smallest rate that the pairs support is shaded, for a curve is drawn there all the same.
"""

from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from contracts.faces.calibration import Calibration
from models.faces.calibration.calibration import det_curve
from models.faces.calibration.comparisons import Comparisons
from models.training.report.figures import BLUE, FAINT, INK, ORANGE, RULE, SHADE, figure, png, tidy

_TICKS = (1e-6, 1e-5, 1e-4, 1e-3, 0.003, 0.01, 0.03, 0.1, 0.3)
_LEAST, _MOST = 1e-7, 0.6
_CURVE_POINTS = 400
_BINS = 60

Values = npt.NDArray[np.float64]


def det_chart(comparisons: Comparisons, found: Calibration, title: str) -> bytes:
    """The picture.

    Args:
        comparisons: All pairs.
        found: What was measured on them.
        title: What they are pairs of.

    Returns:
        A PNG, 1200 x 560 pixels.
    """
    chart = figure(12, 5.6)
    left, right = chart.subplots(1, 2, width_ratios=(1, 1.05))
    _draw_scores(left, comparisons, found)
    _draw_curve(right, comparisons, found)
    chart.suptitle(
        f"{title}: {found.faces:,} faces of {found.people:,} people",
        x=0.012, ha="left", color=INK, fontsize=13, weight="bold", parse_math=False,
    )  # fmt: skip
    return png(chart)


def _draw_scores(axes: Axes, comparisons: Comparisons, found: Calibration) -> None:
    """Histograms, each in percent of its own pairs, and the threshold between them."""
    tidy(axes)
    low = float(min(comparisons.impostor[-1], comparisons.genuine[0]))
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
    axes.axvline(found.threshold, color=INK, linewidth=1.2)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.22)  # room for the legend
    axes.annotate(
        f"threshold {found.threshold:.3f}", (found.threshold, 0.78),
        xycoords=("data", "axes fraction"), xytext=(-6, 0), textcoords="offset points",
        ha="right", color=INK, fontsize=9,
    )  # fmt: skip
    axes.set_xlabel("similarity (cosine)", color=FAINT, fontsize=9)
    axes.set_ylabel("% of the pairs of a kind", color=FAINT, fontsize=9)
    axes.legend(loc="upper left", frameon=False, fontsize=9, labelcolor=INK)


def _draw_curve(axes: Axes, comparisons: Comparisons, found: Calibration) -> None:
    tidy(axes)
    axes.grid(visible=True, axis="both", color=RULE, linewidth=0.8)
    points = det_curve(comparisons, _CURVE_POINTS)
    across = _deviates([point.fmr for point in points])
    up = _deviates([point.fnmr for point in points])
    supported = found.smallest_supported_fmr
    lowest = min(supported / 10, found.target_fmr / 3)
    least_fnmr = min(0.3 / len(comparisons.genuine), 1e-3)
    axes.axvspan(*_deviates([_LEAST, supported]), color=SHADE, zorder=0, linewidth=0)
    axes.plot(across, up, color=BLUE, linewidth=2, drawstyle="steps-post")
    axes.plot(*[_deviates([_LEAST, _MOST])] * 2, color=FAINT, linewidth=0.8, linestyle=":")
    _draw_point(axes, found)
    _scale(axes, lowest, least_fnmr, float(np.clip(20 * found.equal_error_rate, 0.05, _MOST)))
    axes.annotate(
        f"not supported by {len(comparisons.impostor):,} pairs",
        (float(_deviates([supported])[0]), 0.02), xycoords=("data", "axes fraction"),
        xytext=(-5, 0), textcoords="offset points", ha="right", va="bottom", rotation=90,
        color=FAINT, fontsize=8,
    )  # fmt: skip


def _draw_point(axes: Axes, found: Calibration) -> None:
    """The threshold as a ring, with the intervals of both rates as a cross."""
    fmr, fnmr = found.fmr, found.fnmr
    across, up = _deviates([fmr.rate or 0]), _deviates([fnmr.rate or 0])
    axes.plot(_deviates(list(fmr.interval)), [up[0]] * 2, color=ORANGE, linewidth=1.6)
    axes.plot([across[0]] * 2, _deviates(list(fnmr.interval)), color=ORANGE, linewidth=1.6)
    axes.plot(
        across, up, marker="o", markersize=9, markerfacecolor="white", markeredgecolor=ORANGE,
        markeredgewidth=2, linestyle="none",
    )  # fmt: skip
    axes.annotate(
        f"FMR {fmr.rate:.2%}  ({fmr.interval[0]:.2%} to {fmr.interval[1]:.2%})\n"
        f"FNMR {fnmr.rate:.2%}  ({fnmr.interval[0]:.2%} to {fnmr.interval[1]:.2%})\n"
        f"equal error rate {found.equal_error_rate:.2%}",
        (0.23, 0.97), xycoords="axes fraction", va="top", color=INK, fontsize=9,
    )  # fmt: skip


def _scale(axes: Axes, lowest: float, least_fnmr: float, most: float) -> None:
    axes.set_xlim(*_deviates([lowest, most]))
    axes.set_ylim(*_deviates([least_fnmr, most]))
    ticks = _deviates(list(_TICKS))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(list(ticks)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda deviate, _: f"{NormalDist().cdf(deviate) * 100:.4g} %")
    axes.set_xlabel("false match rate (FMR)", color=FAINT, fontsize=9)
    axes.set_ylabel("false non-match rate (FNMR)", color=FAINT, fontsize=9)


def _deviates(rates: list[float]) -> Values:
    """Where rates stand on a normal-deviate axis; 0 and 1 at its ends."""
    inverse = NormalDist().inv_cdf
    return np.array([inverse(min(max(rate, _LEAST), 1 - _LEAST)) for rate in rates])
