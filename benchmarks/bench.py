"""The whole comparison: `make bench`, or `make bench QUICK=1` for a first look.

Starts Opsin and its peers side by side, loads them in turns, prints one table, and writes
`var/bench/results.json` and `docs/performance.md`. It ends within its time: what does not fit is
left out and named. Whatever it started is gone when it ends, also after Ctrl-C.

    python -m benchmarks.bench [--quick] [--networks squeezenet,vgg16] [--no-peers] [--no-page]
                              [--seconds 690] [--precisions bfloat16,int8]
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

from benchmarks import machine, page, plots
from benchmarks.contest import Contest, Pace, Say
from benchmarks.contestants import FIRST_PORT, ROOT, Subject
from benchmarks.figures import Figures, Part
from benchmarks.floor import HTTP_CORE_MS
from benchmarks.preparation import (
    Bench,
    NotPreparedError,
    prepare_int8,
    prepare_peers,
    prepare_pictures,
    squeezenet,
    vgg16,
    weights_folder,
)
from benchmarks.servers import adopt_orphans, reap
from benchmarks.table import HEADER, rows_of, verdicts
from contracts.settings import Settings

SUBJECTS: dict[str, Callable[[Bench, Settings], Subject]] = {
    "squeezenet": squeezenet,
    "vgg16": vgg16,
}
_FULL = {
    "squeezenet": Pace(5, 2.5, 4.0, 0.8, 3.0, 8.0, (0.2, 0.5, 0.8, 0.95)),
    # One turn of sixteen clients takes a peer three seconds.
    "vgg16": Pace(5, 0.0, 5.0, 2.5, 0.0, 0.0, ()),
}
_QUICK = {
    "squeezenet": Pace(1, 1.5, 2.5, 0.8, 1.5, 4.0, (0.5, 0.8)),
    "vgg16": Pace(1, 0.0, 4.0, 2.5, 0.0, 0.0, ()),
}
_FULL_SECONDS, _QUICK_SECONDS = 690.0, 160.0
_CHILD_SECONDS = 120.0
_BUSY = 0.3


class Spoken(Say):
    """Says what happens on a status line."""

    def __init__(self, console: Console) -> None:
        self._status = console.status("Preparing")
        self._status.start()

    def __call__(self, what: str) -> None:
        self._status.update(what)

    def hush(self) -> None:
        """Take the line away."""
        self._status.stop()


def main() -> int:
    """Run it; the exit code is 1 if Opsin itself could not be measured."""
    options = _options()
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(width=150 if not sys.stdout.isatty() else None)
    say = Spoken(console)
    try:
        figures = _measure(options, say)
    except KeyboardInterrupt:
        console.print("Stopped; nothing was written.")
        return 130
    except NotPreparedError as error:
        console.print(f"[red]{error}[/]")
        return 1
    finally:
        say.hush()
        reap()
    _report(figures, options, console)
    return int(any(part.opsin.failure or not part.opsin.throughput for part in figures.parts))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under three minutes, one round")
    parser.add_argument("--networks", help="squeezenet,vgg16; --quick takes the first alone")
    parser.add_argument("--no-peers", action="store_true", help="Opsin alone")
    parser.add_argument("--no-page", action="store_true", help="leave docs/performance.md as it is")
    parser.add_argument(
        "--precisions", default="", help="rows of Opsin besides: float32,int8 (quantized here)"
    )
    parser.add_argument("--seconds", type=float, help="all of it may take; 690, or 160 if quick")
    parser.add_argument("--folder", type=Path, default=ROOT / "var" / "bench")
    return parser.parse_args()


def _measure(options: argparse.Namespace, say: Say) -> Figures:
    settings, bench = Settings(), Bench(options.folder.absolute())
    bench.folder.mkdir(parents=True, exist_ok=True)
    default = "squeezenet" if options.quick else "squeezenet,vgg16"
    networks = (options.networks or default).split(",")
    figures = Figures(machine.describe(), _callers_settings(), machine.cores())
    prepare_pictures(bench, settings)
    say("Installing the peers, once")
    missing = None if options.no_peers else prepare_peers()
    if missing:
        figures.notes.append(missing)
    subjects = {}
    for name in networks:
        say(f"Bringing {name} into the store, once")
        subjects[name] = SUBJECTS[name](bench, settings)
        if "int8" in options.precisions:
            say(f"Quantizing {name}, once")
            prepare_int8(bench, subjects[name].model)
    # From here the time counts: what was made above is found again by the next run.
    began = time.monotonic()
    until = began + (options.seconds or (_QUICK_SECONDS if options.quick else _FULL_SECONDS))
    figures.load = machine.others_load()
    say("Measuring the roofline")
    figures.roofline = _child("benchmarks.roofline", [], figures)
    for number, (name, subject) in enumerate(subjects.items(), 1):
        part = Part(subject.title)
        figures.parts.append(part)
        say(f"{subject.title}: measuring its floor")
        part.floor = _floor(bench, subject, figures)
        share = (until - time.monotonic()) / (len(subjects) - number + 1)
        contest = Contest(
            subject,
            bench,
            weights_folder(settings),
            pace=(_QUICK if options.quick else _FULL)[name],
            until=time.monotonic() + share,
            first_port=FIRST_PORT + 20 * number,
            precisions=[p for p in options.precisions.split(",") if p],
            say=say,
        )
        contest.run(part, peers=not (options.no_peers or missing))
    figures.seconds = time.monotonic() - began
    figures.notes += _doubts(figures)
    return figures


def _callers_settings() -> dict[str, str]:
    """The OPSIN_… variables that shape the figures; none that names a place or a secret."""
    told = ("PRECISION", "RUNTIME", "THREADS", "BATCH", "LINGER", "CACHE", "PROCESSES", "WORKERS")
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("OPSIN_") and any(word in name for word in told) and "/" not in value
    }


def _floor(bench: Bench, subject: Subject, figures: Figures) -> dict[str, Any]:
    arguments = [subject.model, str(bench.home / "store"), str(bench.pictures)]
    found = _child("benchmarks.floor", arguments, figures)
    return found and found | {"http_core_ms": HTTP_CORE_MS}


def _child(module: str, arguments: list[str], figures: Figures) -> dict[str, Any]:
    """The JSON that a module prints, in a process of its own; nothing, and a note, if it fails."""
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
        said = getattr(error, "stderr", None) or b""
        lines = said.decode(errors="replace").strip().splitlines()
        figures.notes.append(f"{module} failed: {lines[-1] if lines else type(error).__name__}")
        return {}
    return content


def _doubts(figures: Figures) -> list[str]:
    notes = []
    if figures.load > _BUSY:
        notes.append(
            f"Others used {figures.load:.1f} cores when this began: measure again on a quiet "
            "machine before you quote anything."
        )
    notes += [
        f"{part.title}: {part.rounds} rounds only; a median wants five."
        for part in figures.parts
        if part.rounds < 5
    ]
    return notes


def _report(figures: Figures, options: argparse.Namespace, console: Console) -> None:
    for part in figures.parts:
        console.print(_rich(HEADER, rows_of(part), f"{part.title}, {part.rounds} rounds"))
        promises = verdicts(part, figures.cores)
        if promises:
            console.print(_rich(("promise", "measured", "holds"), promises, ""))
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
