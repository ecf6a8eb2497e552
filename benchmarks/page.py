"""Writes docs/performance.md from a run's figures: ratios first, then what they stand on."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Figures, Part
from benchmarks.load.plan import Result
from benchmarks.table import HEADER, number, rows_of, verdicts

_INTRODUCTION = """\
# Performance

Made by `make bench`; do not edit. Compare the columns with each other: absolute times are this
machine's, and no better one's. All servers answer from the same SavedModel with the same JPEG
files of 500 pixels over HTTP, run side by side and are measured in turns; a figure is the median
of the rounds. A peer that is busy while nobody asks it (more than a twentieth of a core) is frozen
when it is not its turn. Peers run float32 with their batching on, each as its own documentation
tunes it (`benchmarks/peers/`). The load comes from one more process on the same cores, whose own
cost is told below; latencies count from the moment a request was meant to be sent.
"""


def write_page(figures: Figures, page: Path, images: dict[str, Path]) -> None:
    """Write the page.

    Args:
        figures: Of the run.
        page: The Markdown file.
        images: The plots by what they show, in the page's folder or below it.
    """
    lines = [_INTRODUCTION]
    for part in figures.parts:
        lines += _part(part, figures, images, page.parent)
    lines += _machine(figures)
    page.write_text("\n".join(lines).rstrip() + "\n")


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A table in Markdown."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    lines = [f"| {' | '.join(cells)} |" for cells in escaped]
    return [lines[0], "|" + "---|" * len(header), *lines[1:], ""]


def _part(part: Part, figures: Figures, images: dict[str, Path], folder: Path) -> list[str]:
    lines = [f"## {part.title}", ""]
    best = part.best_peer
    if best is not None and part.opsin.throughput:
        ratio = part.opsin.throughput / best.throughput
        lines += [f"**{ratio:.2f}x the images a second of the best peer, {best.name}.**", ""]
    promises = verdicts(part, figures.cores)
    if promises:
        lines += table(("promise", "measured", "holds"), promises)
    lines += table(HEADER, rows_of(part))
    lines += [f"Rounds: {part.rounds}. {_shares(part, figures)}", ""]
    for what, image in images.items():
        if what.startswith(part.title):
            lines += [f"![{what}]({image.relative_to(folder).as_posix()})", ""]
    lines += _stages(part) + _poisson(part) + _memory(part)
    return lines


def _shares(part: Part, figures: Figures) -> str:
    """What a picture costs, beside what the machine can do."""
    if not part.floor:
        return ""
    compute, decode = part.compute_core_ms(), part.floor["decode_core_ms"]
    bound = part.bound(figures.cores)
    own = [r.own_cpu_ms for r in part.opsin.crowd]
    text = (
        f"A picture costs {decode:.2f} core-ms to decode and {number(compute, 2)} to compute "
        f"(`{part.floor['runtime']}`, best batch size, one thread), so {figures.cores} cores can "
        f"do {number(bound, 0)} a second at most."
    )
    if own:
        text += f" The load generator itself takes {sum(own) / len(own):.2f} core-ms a request."
    return text


def _stages(part: Part) -> list[str]:
    found = {"1 client": part.opsin.alone, "16 clients": part.opsin.crowd}
    rows = []
    for name, results in found.items():
        told = [result for result in results if result.stages]
        if told:
            middle = sorted(told, key=lambda result: result.throughput)[len(told) // 2]
            stages = [f"{middle.stages[s]:.1f}" for s in ("decode", "queue", "compute", "rest")]
            rows.append((name, *stages, number(middle.batch_size, 1)))
    if not rows:
        return []
    header = ("Opsin, mean ms", "decode", "queue", "compute", "rest", "batch")
    return ["Where a request's time goes:", "", *table(header, rows)]


def _poisson(part: Part) -> list[str]:
    if not part.poisson:
        return []
    rows = [_share(share, result) for share, result in part.poisson.items()]
    header = ("of capacity", "asked/s", "p50 ms", "p95 ms", "p99 ms", "p99 / p50", "errors")
    return ["Under Poisson arrivals:", "", *table(header, rows)]


def _share(share: float, result: Result) -> tuple[str, ...]:
    errors = str(sum(result.errors.values()))
    if not result.latency:
        return (f"{share:.0%}", "0", "-", "-", "-", "-", errors)
    p50, p95, p99 = (result.latency[name] for name in ("p50", "p95", "p99"))
    shown = (f"{p50:.1f}", f"{p95:.1f}", f"{p99:.1f}", f"{p99 / p50:.1f}")
    return (f"{share:.0%}", f"{result.throughput:.0f}", *shown, errors)


def _memory(part: Part) -> list[str]:
    told = [f"{name} {size:.0f} MiB" for name, size in part.memory.items() if size]
    if not told:
        return []
    ready = f"from start to first answer {part.opsin.ready_seconds:.1f} s"
    return [f"Opsin's resident memory: {', '.join(told)}; {ready}.", ""]


def _machine(figures: Figures) -> list[str]:
    peaks = figures.roofline.get("gflops", {})
    rows = list(figures.machine.items())
    rows += [(f"peak {kind}", f"{value:.0f} GFLOP/s") for kind, value in peaks.items()]
    if "gb_s" in figures.roofline:
        rows.append(("memory copy", f"{figures.roofline['gb_s']:.1f} GB/s"))
    rows.append(("cores busy before the start", f"{figures.load:.2f}"))
    rows.append(("the run took", f"{figures.seconds:.0f} s"))
    rows += [(name, value) for name, value in figures.settings.items()]
    lines = ["## The machine", "", *table(("what", "value"), rows)]
    return lines + [f"- {note}" for note in figures.notes]
