"""`make chaos`: injects every fault under a steady load and prints a table with one row for each.

    python -m tests.reliability.chaos [--only WORDS] [--rate 10] [--postgresql]

A result is good if nothing is lost: every request is answered within its deadline, correctly or
with a documented code, and every accepted job succeeds. The exit status is 1 if one is not good.
"""

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.flow.installation import ROOT
from tests.postgresql import new_database, running_postgresql
from tests.reliability.deployment import Deployment
from tests.reliability.faults import (
    FAULTS,
    Fault,
    can_mount,
    clock_environment,
    set_clock,
)
from tests.reliability.traffic import Traffic, TrafficReport
from tests.silent_proxy import SilentProxy

BASELINE_SECONDS = 3.0
JOB_REFUSALS = frozenset({"503 dependency_unavailable"})
"""A job is accepted only once it is stored; while it cannot be stored, it is refused."""

# The service counts as recovered after this many successful checks in a row.
_STEADY_CHECKS = 5
_CHECK_SECONDS = 0.6
_RECOVERY_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class FaultResult:
    """The effects of one fault.

    Attributes:
        recovery: Seconds from the end of the fault to the last request that failed.
        has_recovered: Whether the service recovered by itself in time.
    """

    fault: Fault
    report: TrafficReport
    recovery: float
    has_recovered: bool

    @property
    def lost(self) -> int:
        """Requests and jobs that were never answered."""
        jobs = [*self.report.jobs.values(), *self.report.refused_jobs.elements()]
        return self.report.codes()["lost"] + jobs.count("lost")

    @property
    def wrong(self) -> int:
        """Answers that differ from those without a fault."""
        return sum(not request.is_correct for request in self.report.requests)

    @property
    def undocumented(self) -> set[str]:
        """Codes that this fault does not explain."""
        failed = set(self.report.codes()) - self.fault.codes
        refused = set(self.report.refused_jobs) - JOB_REFUSALS - self.fault.codes
        return (failed | refused | set(self.report.jobs.values())) - {"lost", "succeeded"}

    def summary(self) -> str:
        """One line for the console."""
        requests, codes, jobs = self.report.requests, self.report.codes(), self.report.jobs
        verdict = "good" if self.is_good else f"[red]not good[/] {sorted(self.undocumented)}"
        return (
            f"{self.fault.name}: {verdict}; {len(requests)} sent, {_counts(codes)} failed, "
            f"{len(self.report.cut)} cut, {len(jobs)} jobs ({_counts(Counter(jobs.values()))}), "
            f"{_counts(self.report.refused_jobs)} refused, {self.lost} lost, {self.wrong} wrong, "
            f"{self.recovery:.1f} s"
        )

    @property
    def is_good(self) -> bool:
        return self.has_recovered and not (self.lost or self.wrong or self.undocumented)


def _inject(fault: Fault, deployment: Deployment) -> float:
    """Inject the fault; the time at which it was over: at once for a kill."""
    with fault.inject(deployment):
        time.sleep(fault.hold)
    return time.monotonic()


async def run_fault(
    deployment: Deployment, fault: Fault, images: dict[str, bytes], rate: float
) -> FaultResult:
    """Run the load without the fault, with it, and until the service has recovered."""
    traffic = Traffic(deployment.url, images, rate=rate, job_every=16 / rate)
    await traffic.start(len(images))
    await asyncio.sleep(BASELINE_SECONDS)
    ended = await asyncio.to_thread(_inject, fault, deployment)
    has_recovered = await _recovered(deployment, traffic)
    report = await traffic.finish()
    return FaultResult(fault, report, report.recovered_after(ended), has_recovered)


async def _recovered(deployment: Deployment, traffic: Traffic) -> bool:
    """Whether several checks in a row succeed."""
    until, successes = time.monotonic() + _RECOVERY_SECONDS, 0
    while time.monotonic() < until:
        ready = await asyncio.to_thread(deployment.is_ready)
        successes = (
            successes + 1 if ready and deployment.is_running() and await traffic.serves() else 0
        )
        if successes == _STEADY_CHECKS:
            return True
        await asyncio.sleep(_CHECK_SECONDS)
    return False


class Matrix:
    """Runs faults one after the other, in the same deployment as long as it recovers.

    Args:
        fetched: A home with `weights` and `samples`.
        rate: Requests a second.
        console: Prints each result when it is done.
        database_proxy: Leads to a PostgreSQL server, where each deployment gets a database; None
            for SQLite.
    """

    def __init__(
        self,
        fetched: Path,
        rate: float,
        console: Console,
        *,
        database_proxy: SilentProxy | None = None,
    ) -> None:
        self._fetched = fetched
        self._rate = rate
        self._console = console
        samples = sorted((fetched / "samples").glob("*.png"))
        self._images = {file.stem: file.read_bytes() for file in samples}
        self._available = {
            "": True,
            "mounts": can_mount(),
            "cc": shutil.which("cc") is not None,
            "sqlite": database_proxy is None,
            "postgresql": database_proxy is not None,
        }
        self._database_proxy = database_proxy
        self._deployment: Deployment | None = None
        self._clock_moves = False

    def run(self, faults: Sequence[Fault]) -> list[FaultResult]:
        """A result for each fault that this machine can inject; the others are reported."""
        rows = []
        with tempfile.TemporaryDirectory(prefix="opsin-chaos-") as folder:
            try:
                for number, fault in enumerate(faults):
                    if not self._available[fault.needs]:
                        self._console.print(
                            f"skipped  {fault.name}: this machine has no {fault.needs}"
                        )
                        continue
                    rows.append(self._row(fault, Path(folder, str(number))))
            finally:
                self._close()
        return rows

    def _row(self, fault: Fault, folder: Path) -> FaultResult:
        deployment = self._deployment_for(fault, folder)
        row = asyncio.run(run_fault(deployment, fault, self._images, self._rate))
        self._console.print(row.summary(), highlight=False)
        if not row.is_good:
            if not row.has_recovered:
                self._console.print(deployment.log_tails(), markup=False)
            self._close()
        return row

    def _deployment_for(self, fault: Fault, folder: Path) -> Deployment:
        """The deployment of the previous fault, if this fault can be injected there too."""
        moves = fault.needs == "cc"
        if self._deployment is not None and moves == self._clock_moves:
            return self._deployment
        self._close()
        folder.mkdir()
        set_clock(folder / "clock", 0)
        env = clock_environment(folder / "clock") if moves else {}
        if self._database_proxy is not None:
            name = f"chaos_{folder.name}"
            env["OPSIN_DATABASE_URL"] = new_database(self._database_proxy.url, name)
        self._deployment = Deployment(
            folder,
            self._fetched,
            env,
            mounts=self._available["mounts"],
            store=self._fetched / "store",
            database_proxy=self._database_proxy,
        )
        self._clock_moves = moves
        self._deployment.start()
        return self._deployment

    def _close(self) -> None:
        if self._deployment is not None:
            self._deployment.close()
            self._deployment = None


def table(rows: Sequence[FaultResult]) -> Table:
    """The results, one row for each fault."""
    result_table = Table(title="What each fault costs")
    left = {"fault", "failed with", "jobs", "jobs refused with"}
    for heading in (
        *("fault", "sent", "answered", "failed with", "cut, sent again", "jobs"),
        *("jobs refused with", "lost", "wrong", "recovery"),
    ):
        result_table.add_column(heading, justify="left" if heading in left else "right")
    for row in rows:
        report, codes = row.report, row.report.codes()
        result_table.add_row(
            row.fault.name if row.is_good else f"[red]{row.fault.name}[/]",
            str(len(report.requests)),
            str(len(report.requests) - codes.total()),
            _counts(codes),
            str(len(report.cut)),
            _counts(Counter(report.jobs.values())),
            _counts(report.refused_jobs),
            str(row.lost),
            str(row.wrong),
            f"{row.recovery:.1f} s" if row.has_recovered else "none",
        )
    return result_table


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {code}" for code, count in sorted(counts.items())) or "-"


def main() -> int:
    """Run the faults; 1 if a result is not good."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only",
        action="append",
        help="Only faults whose name contains these words; may be repeated.",
    )
    parser.add_argument("--rate", type=float, default=10.0, help="Requests a second.")
    parser.add_argument(
        "--postgresql", action="store_true", help="Start a PostgreSQL and use it instead of SQLite."
    )
    arguments = parser.parse_args()
    # On SIGTERM, it still stops the deployment and unmounts its disks.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    console = Console(width=180)
    fetched = Path(os.environ.get("OPSIN_HOME", ROOT / "var"))
    words = arguments.only or [""]
    chosen = [fault for fault in FAULTS if any(word in fault.name for word in words)]
    with ExitStack() as stack:
        proxy = None
        if arguments.postgresql:
            proxy = stack.enter_context(SilentProxy(stack.enter_context(running_postgresql())))
        rows = Matrix(fetched, arguments.rate, console, database_proxy=proxy).run(chosen)
    console.print(table(rows))
    return 0 if rows and all(row.is_good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
