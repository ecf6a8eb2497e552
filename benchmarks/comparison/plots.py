"""The plots of the page: throughput and latency, batch size, and time by stage."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.comparison.figures import Part

_STAGES = {"decode": "#4477aa", "queue": "#ccbb44", "compute": "#228833", "rest": "#bbbbbb"}
_OPSIN, _PEER = "#aa3377", "#667788"


def draw(part: Part, folder: Path) -> dict[str, Path]:
    """Draw the plots that the part has figures for; returns the files by title."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, Path] = {}
    stem = part.title.split()[0].lower()
    for title, name, paint in (
        ("throughput against latency", "throughput", _throughput),
        ("batch size and cost", "batch", _batch),
        ("time of a request by stage", "stages", _split),
    ):
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axes = figure.subplots()
        if paint(axes, part):
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_title(f"{part.title}: {title}", loc="left", fontsize=11)
            file = folder / f"performance-{stem}-{name}.svg"
            figure.savefig(file, metadata={"Date": None})
            drawn[f"{part.title}: {title}"] = file
    return drawn


def _throughput(axes: Any, part: Part) -> bool:
    points = [(n, r) for n, r in part.curve.items() if r.latency]
    if points:
        axes.plot(
            [r.throughput for _, r in points],
            [r.latency["p99"] for _, r in points],
            "o-",
            color=_OPSIN,
            label="Opsin, p99 by clients",
        )
        for clients, result in points:
            point = (result.throughput, result.latency["p99"])
            axes.annotate(str(clients), point, (-4, 6), textcoords="offset points", ha="right")
    peers = [row for row in part.rows if row.throughput and row.p99]
    for row, marker in zip(peers, "*sD^vPX", strict=False):
        is_opsin = row is part.opsin
        axes.plot(
            row.throughput,
            row.p99,
            marker,
            color=_OPSIN if is_opsin else _PEER,
            markersize=12 if is_opsin else 7,
            linestyle="none",
            label=f"{row.name}, 16 clients",
        )
    if not points and not peers:
        return False
    axes.set(xlabel="images per second", ylabel="p99 latency, ms", yscale="log")
    # Plain numbers, as powers of ten are of little use between 10 and 200 ms.
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_minor_formatter("{x:.0f}")
    axes.grid(alpha=0.25, which="both")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return True


def _batch(axes: Any, part: Part) -> bool:
    costs = {int(size): ms for size, ms in part.floor.get("compute_core_ms", {}).items()}
    if not costs:
        return False
    axes.plot(list(costs), list(costs.values()), "o-", color=_STAGES["compute"])
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(costs), [str(size) for size in costs])
    axes.set(
        xlabel="batch size",
        ylabel="compute, core-ms per image",
        ylim=(0, 1.1 * max(costs.values())),
    )
    axes.grid(alpha=0.25)
    return True


def _split(axes: Any, part: Part) -> bool:
    results = {str(n): r for n, r in part.curve.items() if r.stages}
    staged = [result for result in part.opsin.crowd if result.stages]
    if not results and staged:
        results = {"16": staged[0]}
    if not results:
        return False
    left = [0.0] * len(results)
    for stage, color in _STAGES.items():
        widths = [max(0.0, result.stages[stage]) for result in results.values()]
        axes.barh(list(results), widths, left=left, color=color, label=stage, height=0.62)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="mean ms of a request", ylabel="clients")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return True
