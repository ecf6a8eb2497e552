"""The whole comparison: `make bench`, or `make bench QUICK=1` for a first look.

Starts Opsin and its peers side by side, loads them in turns, prints a table for each network, and
writes `var/bench/results.json` and `docs/performance.md`. It ends within its time limit:
measurements that do not fit are skipped and named. It ends all processes that it has started, also
after Ctrl-C.

    python -m benchmarks.comparison [--quick] [--networks squeezenet,vgg16] [--no-peers] [--no-page]
                              [--seconds 1400] [--precisions float32,int8]
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.comparison import page, plots
from benchmarks.comparison.figures import Figures, Part
from benchmarks.comparison.floor import HTTP_CORE_MS
from benchmarks.comparison.preparation import (
    Bench,
    NotPreparedError,
    prepare_images,
    prepare_peers,
    squeezenet,
    vgg16,
    weights_folder,
)
from benchmarks.comparison.rounds import Comparison, Schedule, Status
from benchmarks.comparison.table import HEADER, rows_of, verdicts
from benchmarks.servers import adopt_orphans, reap
from benchmarks.systems import FIRST_PORT, ROOT, Subject
from contracts.settings import Settings

SUBJECTS: dict[str, Callable[[Bench, Settings], Subject]] = {
    "squeezenet": squeezenet,
    "vgg16": vgg16,
}
_FULL = {
    "squeezenet": Schedule(5, 2.5, 4.0, 0.8, 3.0, 8.0, (0.2, 0.5, 0.8, 0.95), (0.5, 0.8)),
    # Sixteen concurrent requests take a peer three seconds.
    "vgg16": Schedule(5, 0.0, 5.0, 2.5, 0.0, 0.0, ()),
}
_QUICK = {
    "squeezenet": Schedule(1, 1.5, 2.5, 0.8, 1.5, 4.0, (0.5, 0.8)),
    "vgg16": Schedule(1, 0.0, 4.0, 2.5, 0.0, 0.0, ()),
}
_FULL_SECONDS, _QUICK_SECONDS = 1400.0, 160.0
_CHILD_SECONDS = 120.0
_BUSY = 0.3


class StatusLine(Status):
    """Shows the current activity on a status line."""

    def __init__(self, console: Console) -> None:
        self._status = console.status("Preparing")
        self._status.start()

    def update(self, activity: str) -> None:
        self._status.update(activity)

    def close(self) -> None:
        """Remove the line."""
        self._status.stop()


def main() -> int:
    """Run the comparison; the exit code is 1 if Opsin itself could not be measured."""
    options = _options()
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(width=150 if not sys.stdout.isatty() else None)
    status = StatusLine(console)
    try:
        figures = _measure(options, status)
    except KeyboardInterrupt:
        console.print("Stopped; nothing was written.")
        return 130
    except NotPreparedError as error:
        console.print(f"[red]{error}[/]")
        return 1
    finally:
        status.close()
        reap()
    _report(figures, options, console)
    return int(any(part.opsin.failure or not part.opsin.throughput for part in figures.parts))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under three minutes, one round")
    parser.add_argument("--networks", help="squeezenet,vgg16; --quick measures only the first")
    parser.add_argument("--no-peers", action="store_true", help="measure only Opsin")
    parser.add_argument("--no-page", action="store_true", help="do not write docs/performance.md")
    parser.add_argument(
        "--precisions", help="additional rows of Opsin; default int8, or none with --quick"
    )
    parser.add_argument(
        "--seconds", type=float, help="time limit; default 1400, or 160 with --quick"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "var" / "bench")
    options = parser.parse_args()
    if options.precisions is None:
        options.precisions = "" if options.quick else "int8"
    return options


def _measure(options: argparse.Namespace, status: Status) -> Figures:
    settings, bench = Settings(), Bench(options.folder.absolute())
    bench.folder.mkdir(parents=True, exist_ok=True)
    default = "squeezenet" if options.quick else "squeezenet,vgg16"
    networks = (options.networks or default).split(",")
    figures = Figures(machine.describe(), _shown_settings(), machine.cores())
    prepare_images(bench, settings)
    status.update("Installing the peers (once)")
    missing = None if options.no_peers else prepare_peers()
    if missing:
        figures.notes.append(missing)
    subjects = {}
    for name in networks:
        status.update(f"Importing {name} into the store (once)")
        subjects[name] = SUBJECTS[name](bench, settings)
    # The time limit starts here: the next run reuses what was prepared above.
    began = time.monotonic()
    until = began + (options.seconds or (_QUICK_SECONDS if options.quick else _FULL_SECONDS))
    figures.load = machine.others_load()
    status.update("Measuring the roofline")
    figures.roofline = _child("benchmarks.comparison.roofline", [], figures)
    for number, (name, subject) in enumerate(subjects.items(), 1):
        part = Part(subject.title)
        figures.parts.append(part)
        status.update(f"{subject.title}: measuring its cost without a server")
        part.floor = _floor(bench, subject, figures)
        share = (until - time.monotonic()) / (len(subjects) - number + 1)
        comparison = Comparison(
            subject,
            bench,
            weights_folder(settings),
            schedule=(_QUICK if options.quick else _FULL)[name],
            until=time.monotonic() + share,
            first_port=FIRST_PORT + 20 * number,
            precisions=[p for p in options.precisions.split(",") if p],
            status=status,
        )
        comparison.run(part, peers=not (options.no_peers or missing))
    figures.seconds = time.monotonic() - began
    figures.notes += _warnings(figures)
    return figures


def _shown_settings() -> dict[str, str]:
    """The OPSIN_… variables that affect the results; none with a path or a secret."""
    words = ("PRECISION", "RUNTIME", "THREADS", "BATCH", "LINGER", "CACHE", "PROCESSES", "WORKERS")
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("OPSIN_") and any(word in name for word in words) and "/" not in value
    }


def _floor(bench: Bench, subject: Subject, figures: Figures) -> dict[str, Any]:
    arguments = [subject.model, str(bench.home / "store"), str(bench.images)]
    floor = _child("benchmarks.comparison.floor", arguments, figures)
    return floor and floor | {"http_core_ms": HTTP_CORE_MS}


def _child(module: str, arguments: list[str], figures: Figures) -> dict[str, Any]:
    """The JSON that a module prints, run in its own process; empty, with a note, if it fails."""
    try:
        ended = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            capture_output=True,
            timeout=_CHILD_SECONDS,
            check=True,
        )
        content: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        stderr = getattr(error, "stderr", None) or b""
        lines = stderr.decode(errors="replace").strip().splitlines()
        figures.notes.append(f"{module} failed: {lines[-1] if lines else type(error).__name__}")
        return {}
    return content


def _warnings(figures: Figures) -> list[str]:
    notes = []
    if figures.load > _BUSY:
        notes.append(
            f"Other processes used {figures.load:.1f} cores at the start: measure again on an idle "
            "machine before you quote these figures."
        )
    notes += [
        f"{part.title}: only {part.rounds} rounds; a median needs five."
        for part in figures.parts
        if part.rounds < 5
    ]
    return notes


def _report(figures: Figures, options: argparse.Namespace, console: Console) -> None:
    for part in figures.parts:
        console.print(_rich(HEADER, rows_of(part), f"{part.title}, {part.rounds} rounds"))
        goals = verdicts(part, figures.cores)
        if goals:
            console.print(_rich(("goal", "measured", "met"), goals, ""))
    for note in figures.notes:
        console.print(f"[yellow]! {note}[/]")
    results = options.folder / "results.json"
    figures.write(results)
    console.print(f"Figures: {os.path.relpath(results)}")
    if not options.no_page:
        docs = ROOT / "docs"
        images: dict[str, Path] = {}
        for part in figures.parts:
            images |= plots.draw(part, docs / "images")
        page.write_page(figures, docs / "performance.md", images)
        console.print("Page: docs/performance.md")


def _rich(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table


if __name__ == "__main__":
    sys.exit(main())
