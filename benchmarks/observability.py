"""What metrics and traces cost a classification, measured in one run.

    python -m benchmarks.observability --weights /path/to/weights --images /path/to/jpegs

Four installations run side by side and take turns, in an order that changes with each round:
without counting, without the calls that tracing consists of, as shipped, and with 10% of the
requests traced to a collector. What is compared is the processor time of all processes for each
request, which other programs on the machine disturb less than throughput; both are printed.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from benchmarks.load.plan import Plan, Result
from benchmarks.load.process import measure
from benchmarks.machine import describe, others_load
from benchmarks.servers import Server
from benchmarks.systems import FIRST_PORT, ROOT, Subject, opsin
from benchmarks.taken_out import SITE, VARIABLE
from tests.collector import Collector, collecting

READY_SECONDS = 300


@dataclass
class Variant:
    """One installation, and what was measured of it.

    Attributes:
        name: For the table.
        without: What is taken out: `counting`, `tracing` or nothing.
        ratio: Share of traced requests; None without a collector.
        cpu_ms: Processor time for each request, by round.
        rates: Requests per second, by round.
    """

    name: str
    without: str = ""
    ratio: float | None = None
    cpu_ms: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


VARIANTS = (
    Variant("without counting", without="counting"),
    Variant("without tracing's calls", without="tracing"),
    Variant("as shipped"),
    Variant("10% traced", ratio=0.1),
)
COMPARED = (
    ("metrics", "as shipped", "without counting"),
    ("tracing, off", "as shipped", "without tracing's calls"),
    ("tracing, 10%", "10% traced", "as shipped"),
)


@contextmanager
def started(
    variant: Variant, port: int, options: argparse.Namespace, collector: Collector
) -> Iterator[Server]:
    """An installation of a variant, ready."""
    with tempfile.TemporaryDirectory(prefix="opsin-bench-") as folder:
        home, site = Path(folder, "home"), Path(folder, "site")
        site.mkdir()
        home.mkdir()
        (site / "sitecustomize.py").write_text(SITE)
        if options.store:
            (home / "store").symlink_to(options.store)
        subject = Subject(options.model, options.model, 0, Path(), 1, 1)
        launch = opsin(subject, port, home, options.weights)
        more = {
            "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
            VARIABLE: variant.without,
            "OPSIN_HEATMAP_CACHE_MB": "0",
        }
        if variant.ratio is not None:
            more |= {
                "OPSIN_OTLP_ENDPOINT": collector.url,
                "OPSIN_TRACE_RATIO": str(variant.ratio),
            }
        launch = replace(launch, env={**launch.env, **more})
        server = Server(launch, folder=ROOT, log=Path(folder, "log"))
        try:
            image = next(iter(sorted(options.images.glob("*.jpg")))).read_bytes()
            server.await_ready(image, seconds=READY_SECONDS)
            yield server
        finally:
            server.stop()


def one_round(variant: Variant, server: Server, options: argparse.Namespace) -> None:
    """Load one installation for some seconds."""
    plan = Plan(
        server.launch.port,
        server.launch.path,
        str(options.images),
        clients=options.clients,
        seconds=options.seconds,
        warmup=0,
    )
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
    with collecting() as collector, ExitStack() as stack:
        servers = [
            stack.enter_context(started(variant, FIRST_PORT + number, options, collector))
            for number, variant in enumerate(VARIANTS)
        ]
        pairs = list(zip(VARIANTS, servers, strict=True))
        for variant, server in pairs:  # the first requests are slower
            one_round(variant, server, options)
            variant.cpu_ms.clear()
            variant.rates.clear()
        order, end = random.Random(8), time.monotonic() + options.within
        for _ in range(options.rounds):
            if time.monotonic() > end:
                break
            order.shuffle(pairs)
            for variant, server in pairs:
                one_round(variant, server, options)
        json.dump(report(VARIANTS, len(collector.spans)), sys.stdout, indent=2)


if __name__ == "__main__":
    main()
