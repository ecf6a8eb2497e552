"""Three times what it can do, by people who do not wait: how much of what it can it still does.

    python -m tests.reliability.overload [--seconds 20]

First a closed loop finds the peak. Then requests arrive by a Poisson process at three times that
rate. What is accepted must still be answered at 90 % of the peak and within its deadline, the rest
be refused at once, and memory stay where it is. The exit status is 1 where it is not so.
"""

import argparse
import os
import signal
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.load.pictures import write_pictures
from benchmarks.load.plan import Plan, Result
from benchmarks.load.process import measure
from tests.flow.running import ROOT
from tests.reliability.house import House, opened

TIMES = 3.0
LEAST_GOODPUT = 0.9
DEADLINE_MS = 4000
MOST_GROWTH_MIB = 100.0
# Under three times the load of two cores, "at once" is still a place in the kernel's queue.
MOST_REFUSAL_MS = 1000.0
_CLOSED_CLIENTS = 24
_OPEN_CLIENTS = 400
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it.

    Attributes:
        peak: The closed loop.
        open: Three times that.
        growth: The largest resident memory of API and worker under it, above that before, in MiB.
    """

    peak: Result
    open: Result
    growth: float

    @property
    def goodput(self) -> float:
        """As a share of the peak."""
        return self.open.throughput / self.peak.throughput

    @property
    def is_good(self) -> bool:
        return (
            self.goodput >= LEAST_GOODPUT
            and self.open.latency["p99"] <= DEADLINE_MS
            and self.open.refusals.get("p99", 0.0) <= MOST_REFUSAL_MS
            and self.growth <= MOST_GROWTH_MIB
            and set(self.open.errors) <= {"429"}
        )


class _Weighing:
    """The largest memory of some processes, from when it is entered until it is left."""

    def __init__(self, processes: list[psutil.Process]) -> None:
        self._processes = processes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._weigh_on)
        self.first = self.most = self._weight()

    def __enter__(self) -> "_Weighing":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _weigh_on(self) -> None:
        while not self._over.wait(0.25):
            self.most = max(self.most, self._weight())

    def _weight(self) -> float:
        return sum(process.memory_info().rss for process in self._processes) / _MIB


def overload(house: House, pictures: Path, seconds: float) -> Outcome:
    """Measure both on a running house."""
    least = Plan(port=house.port, path="/v1/classify", pictures=str(pictures), seconds=seconds)
    peak = measure(_changed(least, clients=_CLOSED_CLIENTS, warmup=3.0))
    rate = TIMES * peak.throughput
    with _Weighing([house.one("api"), house.one("worker")]) as weighing:
        under = measure(_changed(least, clients=_OPEN_CLIENTS, warmup=2.0, rate=rate))
    return Outcome(peak, under, weighing.most - weighing.first)


def _changed(plan: Plan, **fields: float) -> Plan:
    return Plan(**plan.as_json() | fields)


def table(outcome: Outcome) -> Table:
    """The figures."""
    made = Table("what", "value", title="Three times what it can do", show_header=False)
    under = outcome.open
    refused = under.errors.get("429", 0)
    other = {code: count for code, count in under.errors.items() if code != "429"}
    rows = (
        ("peak, closed loop", f"{outcome.peak.throughput:.0f} a second"),
        (
            "sent then",
            f"{(under.answered + sum(under.errors.values())) / under.seconds:.0f} a second",
        ),
        ("answered", f"{under.throughput:.0f} a second, {outcome.goodput:.0%} of the peak"),
        ("of them, p50 and p99", f"{under.latency['p50']:.0f} and {under.latency['p99']:.0f} ms"),
        ("refused with 429", f"{refused / under.seconds:.0f} a second"),
        (
            "of them, p50 and p99",
            "{p50:.0f} and {p99:.0f} ms".format(**under.refusals or {"p50": 0, "p99": 0}),
        ),
        ("failed otherwise", str(other or "none")),
        ("memory of API and worker", f"{outcome.growth:+.0f} MiB"),
        (
            "the load's own share of a core",
            f"{under.own_cpu_ms * (under.answered + refused) / under.seconds / 1000:.2f}",
        ),
        ("verdict", "passed" if outcome.is_good else "[red]FAILED[/]"),
    )
    for row in rows:
        made.add_row(*row)
    return made


def run(fetched: Path, seconds: float) -> Outcome:
    """In a house made for it."""
    with tempfile.TemporaryDirectory(prefix="opsin-overload-") as folder:
        pictures = Path(folder, "pictures")
        write_pictures(fetched / "samples", pictures)
        env = {"OPSIN_DEFAULT_TIMEOUT_MS": str(DEADLINE_MS)}
        with opened(House(Path(folder, "house"), fetched, env, store=fetched / "store")) as house:
            return overload(house, pictures, seconds)


def main() -> int:
    """Print the table; 1 if it does not stand it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="Of each of the two loads.")
    asked = parser.parse_args()
    # Told to end, it still stops all that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    outcome = run(Path(os.environ.get("OPSIN_HOME", ROOT / "var")), asked.seconds)
    Console(width=100).print(table(outcome))
    return 0 if outcome.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
