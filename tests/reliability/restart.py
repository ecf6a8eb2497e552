"""A rolling restart under load: two API processes behind one port and two workers, all replaced.

    python -m tests.reliability.restart [--rate 20] [--postgresql]

No request may fail and no connection may be cut. Then all processes are stopped and must end within
`OPSIN_SHUTDOWN_SECONDS` (and a little more, for the end of the interpreter). Otherwise the exit
status is 1.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from rich.console import Console
from rich.table import Table

from tests.conftest import SHARED
from tests.flow.installation import READY_SECONDS, ROOT, Installation
from tests.postgresql import database_settings
from tests.reliability.traffic import Traffic, TrafficReport

SHUTDOWN_SECONDS = 6.0
# For the interpreter to end, and for a supervisor to notice that its children have ended.
_END_SECONDS = 3.0
_BASELINE_SECONDS = 2.0
# A client that closes idle connections sooner than the API does while it stops, a tenth of its
# shutdown time, never sends a request over a connection that is being closed.
_IDLE_SECONDS = 0.08 * SHUTDOWN_SECONDS
_ROLLED = "API processes were replaced"


@dataclass(frozen=True, slots=True)
class RestartResult:
    """The result of the restart.

    Attributes:
        report: The requests and jobs that were sent during it.
        replaced: Seconds that each replacement took.
        stopped: Seconds from SIGTERM to the end, by process.
    """

    report: TrafficReport
    replaced: dict[str, float]
    stopped: dict[str, float]

    @property
    def is_good(self) -> bool:
        jobs = set(self.report.jobs.values()) | set(self.report.refused_jobs)
        uninterrupted = not self.report.codes() and not self.report.cut and jobs <= {"succeeded"}
        return uninterrupted and max(self.stopped.values()) <= SHUTDOWN_SECONDS + _END_SECONDS


def installation(folder: Path, fetched: Path, database: Mapping[str, str]) -> Installation:
    """An installation for two API processes and two workers, without a job worker."""
    weights = os.environ.get("OPSIN_WEIGHTS_DIR") or str(SHARED / "weights")
    env = {
        "OPSIN_MODELS": "squeezenet",
        "OPSIN_API_PROCESSES": "2",
        "OPSIN_WORKER_THREADS": "1",
        "OPSIN_SHUTDOWN_SECONDS": f"{SHUTDOWN_SECONDS:g}",
        "OPSIN_WEIGHTS_DIR": weights,
        **database,
    }
    store = fetched / "store"
    known = (
        store if (store / "squeezenet").is_dir() else None
    )  # otherwise the first start imports it
    return Installation(folder / "home", fetched / "weights", env, store=known)


def _start_workers(running: Installation) -> None:
    """Start both workers one after the other, since the first may have to import the network."""
    running.start()
    running.run("worker-2", "worker")
    running.wait_until(lambda: len(running.worker_ids()) == 2, READY_SECONDS)


async def restart_everything(
    running: Installation, images: dict[str, bytes], rate: float
) -> RestartResult:
    """Replace everything under load, then stop everything."""
    traffic = Traffic(
        running.url,
        images,
        rate=rate,
        job_every=2.0,
        datasets=False,
        idle_seconds=_IDLE_SECONDS,
    )
    await traffic.start(len(images))
    await asyncio.sleep(_BASELINE_SECONDS)
    replaced = {"both API processes": await asyncio.to_thread(_roll_api, running)}
    for name in ("worker", "worker-2"):
        replaced[name] = await asyncio.to_thread(_replace_worker, running, name)
    await asyncio.sleep(_BASELINE_SECONDS)
    report = await traffic.finish()
    return RestartResult(report, replaced, await asyncio.to_thread(_stopped, running))


def _roll_api(running: Installation) -> float:
    began = time.monotonic()
    running.processes["api"].send_signal(signal.SIGUSR2)
    running.wait_until(lambda: _ROLLED in running.log("api"), READY_SECONDS)
    return time.monotonic() - began


def _replace_worker(running: Installation, name: str) -> float:
    """Stop a worker before its successor is started, which is the harder order."""
    before, began = running.worker_ids(), time.monotonic()
    running.kill(name, signal.SIGTERM)
    running.run(name, "worker")

    def is_replaced() -> bool:
        now = running.worker_ids()
        return len(now) == 2 and now != before  # the API learns of the end within half a second

    running.wait_until(is_replaced, READY_SECONDS)
    return time.monotonic() - began


def _stopped(running: Installation) -> dict[str, float]:
    """Stop all at once; return how long each took."""
    took: dict[str, float] = {}
    began = time.monotonic()
    for process in running.processes.values():
        process.send_signal(signal.SIGTERM)
    for name, process in running.processes.items():
        try:
            process.wait(4 * SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        took[name] = time.monotonic() - began
    return took


def run(
    rate: float, fetched: Path, database: Mapping[str, str] = MappingProxyType({})
) -> RestartResult:
    """Run in a new installation."""
    samples = sorted((fetched / "samples").glob("*.png"))
    images = {file.stem: file.read_bytes() for file in samples}
    with tempfile.TemporaryDirectory(prefix="opsin-restart-") as folder:
        running = installation(Path(folder), fetched, database)
        try:
            _start_workers(running)
            return asyncio.run(restart_everything(running, images, rate))
        finally:
            running.close()


def table(result: RestartResult) -> Table:
    """The result as a table."""
    result_table = Table("what", "value", title="Everything replaced under load", show_header=False)
    report = result.report
    failed = ", ".join(f"{count} {code}" for code, count in report.codes().items())
    result_table.add_row("requests sent", str(len(report.requests)))
    result_table.add_row("failed", failed or "0")
    result_table.add_row("connections cut", str(len(report.cut)))
    result_table.add_row(
        "slowest answer",
        f"{max(request.ended - request.began for request in report.requests):.2f} s",
    )
    ended = [*report.jobs.values(), *report.refused_jobs.elements()]
    result_table.add_row("jobs, of them succeeded", f"{len(ended)}, {ended.count('succeeded')}")
    for name, seconds in result.replaced.items():
        result_table.add_row(f"{name} replaced in", f"{seconds:.1f} s")
    for name, seconds in result.stopped.items():
        result_table.add_row(f"{name} ended after SIGTERM in", f"{seconds:.1f} s")
    result_table.add_row("verdict", "passed" if result.is_good else "[red]FAILED[/]")
    return result_table


def main() -> int:
    """Print the table; 1 if the result is not good."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=20.0, help="Requests a second.")
    parser.add_argument("--postgresql", action="store_true", help="Instead of SQLite.")
    arguments = parser.parse_args()
    # On SIGTERM, it still stops everything it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    fetched = Path(os.environ.get("OPSIN_HOME", ROOT / "var"))
    with database_settings("restart", postgresql=arguments.postgresql) as database:
        result = run(arguments.rate, fetched, database)
    Console(width=100).print(table(result))
    return 0 if result.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
