"""Three times what it can do, by people who do not wait: how much of what it can it still does.

    python -m tests.reliability.overload [--seconds 20] [--postgresql]

First a closed loop finds the peak. Then requests arrive by a Poisson process at three times that
rate. What is accepted must still be answered at 90% of the peak and within its deadline, the rest
be refused at once, and memory stay where it is. The exit status is 1 where it is not so.
"""

import argparse
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.load.images import write_images
from benchmarks.load.plan import Plan, Result
from benchmarks.load.process import measure
from tests.flow.installation import ROOT
from tests.postgresql import database_settings
from tests.reliability.deployment import Deployment, started

OVERLOAD_FACTOR = 3.0
MIN_GOODPUT = 0.9
DEADLINE_MS = 4000
MAX_GROWTH_MIB = 100.0
# Under three times the load, even an immediate refusal waits in the kernel's queue.
MAX_REFUSAL_MS = 1000.0
_CLOSED_CLIENTS = 24
_OPEN_CLIENTS = 400
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class OverloadResult:
    """The result of both measurements.

    Attributes:
        peak: The closed loop.
        open: Three times that rate.
        growth: By how much the resident memory of API and worker grew at most, in MiB.
    """

    peak: Result
    open: Result
    growth: float

    @property
    def goodput(self) -> float:
        """Answered requests as a fraction of the peak."""
        return self.open.throughput / self.peak.throughput

    @property
    def is_good(self) -> bool:
        return (
            self.goodput >= MIN_GOODPUT
            and self.open.latency["p99"] <= DEADLINE_MS
            and self.open.refusals.get("p99", 0.0) <= MAX_REFUSAL_MS
            and self.growth <= MAX_GROWTH_MIB
            and set(self.open.errors) <= {"429"}
        )


class _MemoryMonitor:
    """Records the largest total memory of some processes while it is entered."""

    def __init__(self, processes: list[psutil.Process]) -> None:
        self._processes = processes
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.first = self.maximum = self._memory()

    def __enter__(self) -> "_MemoryMonitor":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finished.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._finished.wait(0.25):
            self.maximum = max(self.maximum, self._memory())

    def _memory(self) -> float:
        return sum(process.memory_info().rss for process in self._processes) / _MIB


def overload(deployment: Deployment, images: Path, seconds: float) -> OverloadResult:
    """Measure both on a running deployment."""
    plan = Plan(port=deployment.port, path="/v1/classify", images=str(images), seconds=seconds)
    peak = measure(_changed(plan, clients=_CLOSED_CLIENTS, warmup=3.0))
    rate = OVERLOAD_FACTOR * peak.throughput
    with _MemoryMonitor([deployment.wait_for("api"), deployment.wait_for("worker")]) as monitor:
        under = measure(_changed(plan, clients=_OPEN_CLIENTS, warmup=2.0, rate=rate))
    return OverloadResult(peak, under, monitor.maximum - monitor.first)


def _changed(plan: Plan, **fields: float) -> Plan:
    return Plan(**plan.as_json() | fields)


def table(result: OverloadResult) -> Table:
    """The results as a table."""
    result_table = Table("what", "value", title="Three times the peak load", show_header=False)
    under = result.open
    refused = under.errors.get("429", 0)
    other = {code: count for code, count in under.errors.items() if code != "429"}
    rows = (
        ("peak, closed loop", f"{result.peak.throughput:.0f} a second"),
        (
            "sent then",
            f"{(under.answered + sum(under.errors.values())) / under.seconds:.0f} a second",
        ),
        ("answered", f"{under.throughput:.0f} a second, {result.goodput:.0%} of the peak"),
        ("of them, p50 and p99", f"{under.latency['p50']:.0f} and {under.latency['p99']:.0f} ms"),
        ("refused with 429", f"{refused / under.seconds:.0f} a second"),
        (
            "of them, p50 and p99",
            "{p50:.0f} and {p99:.0f} ms".format(**under.refusals or {"p50": 0, "p99": 0}),
        ),
        ("failed otherwise", str(other or "none")),
        ("memory of API and worker", f"{result.growth:+.0f} MiB"),
        (
            "the load's own share of a core",
            f"{under.own_cpu_ms * (under.answered + refused) / under.seconds / 1000:.2f}",
        ),
        ("verdict", "passed" if result.is_good else "[red]FAILED[/]"),
    )
    for row in rows:
        result_table.add_row(*row)
    return result_table


def run(
    fetched: Path, seconds: float, database: Mapping[str, str] = MappingProxyType({})
) -> OverloadResult:
    """Measure in a new deployment."""
    with tempfile.TemporaryDirectory(prefix="opsin-overload-") as folder:
        images = Path(folder, "images")
        write_images(fetched / "samples", images)
        env = {"OPSIN_DEFAULT_TIMEOUT_MS": str(DEADLINE_MS), **database}
        with started(
            Deployment(Path(folder, "deployment"), fetched, env, store=fetched / "store")
        ) as deployment:
            return overload(deployment, images, seconds)


def main() -> int:
    """Print the table; 1 if the result is not good."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="Duration of each of the two loads."
    )
    parser.add_argument("--postgresql", action="store_true", help="Instead of SQLite.")
    arguments = parser.parse_args()
    # On SIGTERM, it still stops everything it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    fetched = Path(os.environ.get("OPSIN_HOME", ROOT / "var"))
    with database_settings("overload", postgresql=arguments.postgresql) as database:
        result = run(fetched, arguments.seconds, database)
    Console(width=100).print(table(result))
    return 0 if result.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
