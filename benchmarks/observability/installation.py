"""What metrics and traces cost a classification, measured in one run.

    python -m benchmarks.observability.installation --weights FOLDER --images FOLDER

One installation takes turns, in an order that changes with each round: without counting, without
the calls that tracing consists of, as shipped, and with 10% of the requests traced to a collector.
Its processes change while they run (see `benchmarks.observability.taken_out`), since two
installations of the same code differ by more than these costs. What is compared is the processor
time of all processes for each request, which other programs on the machine disturb less than
throughput; both are printed.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from benchmarks.load.plan import Plan, Result
from benchmarks.load.process import measure
from benchmarks.machine import describe, others_load
from benchmarks.observability.taken_out import (
    CALLS,
    COUNTING,
    SECONDS,
    SHIPPED,
    SITE,
    TRACED,
    VARIABLE,
    choose,
)
from benchmarks.servers import Server
from benchmarks.systems import FIRST_PORT, ROOT, Subject, opsin
from tests.collector import Collector, collecting

READY_SECONDS = 300


@dataclass
class Variant:
    """One way to run, and what was measured of it.

    Attributes:
        name: See `benchmarks.observability.taken_out`.
        cpu_ms: Processor time for each request, by round.
        rates: Requests per second, by round.
    """

    name: str
    cpu_ms: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


VARIANTS = tuple(map(Variant, (COUNTING, CALLS, SHIPPED, TRACED)))
COMPARED = (
    ("metrics", SHIPPED, COUNTING),
    ("tracing, off", SHIPPED, CALLS),
    ("tracing, 10%", TRACED, SHIPPED),
)


@contextmanager
def started(options: argparse.Namespace, collector: Collector, switch: str) -> Iterator[Server]:
    """An installation, ready, whose processes follow the file `switch`."""
    with tempfile.TemporaryDirectory(prefix="opsin-bench-") as folder:
        home, site = Path(folder, "home"), Path(folder, "site")
        site.mkdir()
        home.mkdir()
        (site / "sitecustomize.py").write_text(SITE)
        if options.store:
            (home / "store").symlink_to(options.store)
        subject = Subject(options.model, options.model, 0, Path(), Path(), 1, 1)
        launch = opsin(subject, FIRST_PORT, home, options.weights)
        more = {
            "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
            VARIABLE: switch,
            "OPSIN_HEATMAP_CACHE_MB": "0",
            "OPSIN_OTLP_ENDPOINT": collector.url,
            "OPSIN_TRACE_RATIO": "0.1",
        }
        launch = replace(launch, env={**launch.env, **more})
        server = Server(launch, folder=ROOT, log=Path(folder, "log"))
        try:
            image = _first_jpeg(options.images).read_bytes()
            server.await_ready(image, seconds=READY_SECONDS)
            yield server
        finally:
            server.stop()


def _first_jpeg(folder: Path) -> Path:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in {".jpg", ".jpeg"})
    if not found:
        raise SystemExit(f"{folder} holds no JPEG file")
    return found[0]


def one_round(variant: Variant, server: Server, options: argparse.Namespace, switch: str) -> None:
    """Load the installation for some seconds, in one variant."""
    choose(switch, variant.name)
    plan = Plan(
        server.launch.port,
        server.launch.path,
        str(options.images),
        clients=options.clients,
        seconds=options.seconds,
        warmup=0,
    )
    time.sleep(2 * SECONDS)
    before = server.cpu_seconds()
    result: Result = measure(plan)
    used = server.cpu_seconds() - before
    if result.errors or not result.answered:
        raise RuntimeError(f"{variant.name}: {result.errors}")
    variant.cpu_ms.append(1000 * used / result.answered)
    variant.rates.append(result.throughput)


def compared(changed: Variant, base: Variant) -> dict[str, float]:
    """By how much processor time for a request grew, in percent, round by round."""
    pairs = zip(changed.cpu_ms, base.cpu_ms, strict=True)
    growth = [100 * (one / other - 1) for one, other in pairs]
    chance = random.Random(8)
    medians = sorted(median(chance.choices(growth, k=len(growth))) for _ in range(2000))
    return {
        "cpu_percent": round(median(growth), 2),
        "from": round(medians[50], 2),
        "to": round(medians[-51], 2),
    }


def report(variants: Sequence[Variant], spans: int) -> Mapping[str, object]:
    """The result as JSON."""
    by_name = {variant.name: variant for variant in variants}
    return {
        "machine": describe(),
        "others_cores": round(others_load(), 2),
        "rounds": len(variants[0].cpu_ms),
        "variants": {
            name: {
                "cpu_ms": round(median(variant.cpu_ms), 3),
                "requests_per_second": round(median(variant.rates), 1),
            }
            for name, variant in by_name.items()
        },
        "costs": {
            name: compared(by_name[changed], by_name[base]) for name, changed, base in COMPARED
        },
        "spans_received": spans,
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description="What metrics and traces cost.")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True, help="a folder of JPEG files")
    parser.add_argument("--store", type=Path, help="a store to begin with")
    parser.add_argument("--model", default="squeezenet")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--within", type=float, default=3600, help="no round starts after seconds")
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    switch = f"{tempfile.gettempdir()}/opsin-bench-{os.getpid()}.variant"
    choose(switch, SHIPPED)
    with collecting() as collector, started(options, collector, switch) as server:
        order, end = random.Random(8), time.monotonic() + options.within
        variants = list(VARIANTS)
        for number in range(1 + options.rounds):
            if time.monotonic() > end:
                break
            order.shuffle(variants)
            for variant in variants:
                one_round(variant, server, options, switch)
                if number == 0:  # the first requests are slower
                    variant.cpu_ms.clear()
                    variant.rates.clear()
        json.dump(report(VARIANTS, len(collector.spans)), sys.stdout, indent=2)
    Path(switch).unlink()


if __name__ == "__main__":
    main()
