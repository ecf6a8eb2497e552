"""A rolling restart under load: two API processes behind one port and two workers, all replaced.

    python -m tests.reliability.restart [--rate 20]

No request may fail and no connection be cut: nobody should notice. Then all are told to stop, and
must have ended within `OPSIN_SHUTDOWN_SECONDS` (and a little, for a process's own end). The exit
status is 1 if anything of that is not so.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.flow.running import READY_SECONDS, ROOT, Running
from tests.reliability.traffic import Account, Traffic

SHUTDOWN_SECONDS = 6.0
# The interpreter's own end, and that of a keeper that sees its children end.
_END_SECONDS = 3.0
_CALM_SECONDS = 2.0
# Who keeps an idle connection for less than the API's parting, a tenth of its time, is never cut
# off: longer, and a request may set out as the connection is closed.
_IDLE_SECONDS = 0.08 * SHUTDOWN_SECONDS
_ROLLED = "API processes were replaced"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it.

    Attributes:
        account: What was sent meanwhile and what became of it.
        rolled: Seconds that each part's replacement took.
        stopped: Seconds from SIGTERM to the end, by process.
    """

    account: Account
    rolled: dict[str, float]
    stopped: dict[str, float]

    @property
    def is_good(self) -> bool:
        jobs = set(self.account.jobs.values()) | set(self.account.refused_jobs)
        nobody_noticed = not self.account.codes() and not self.account.cut and jobs <= {"succeeded"}
        return nobody_noticed and max(self.stopped.values()) <= SHUTDOWN_SECONDS + _END_SECONDS


def installation(folder: Path, fetched: Path) -> Running:
    """For two API processes and two workers; nobody does long jobs there, and none is sent."""
    weights = os.environ.get("OPSIN_WEIGHTS_DIR")
    env = {
        "OPSIN_MODELS": "squeezenet",
        "OPSIN_API_PROCESSES": "2",
        "OPSIN_WORKER_THREADS": "1",
        "OPSIN_SHUTDOWN_SECONDS": f"{SHUTDOWN_SECONDS:g}",
    }
    if weights:
        env["OPSIN_WEIGHTS_DIR"] = weights
    store = fetched / "store"
    known = store if (store / "squeezenet").is_dir() else None  # else the first start imports it
    return Running(folder / "home", fetched / "weights", env, store=known)


def _begin(running: Running) -> None:
    """Both workers, one after the other: only the first may have to import the network."""
    running.start()
    running.run("worker-2", "worker")
    running.await_that(lambda: len(running.worker_ids()) == 2, READY_SECONDS)


async def restarted(running: Running, pictures: dict[str, bytes], rate: float) -> Outcome:
    """Replace everything under load, then stop everything."""
    traffic = Traffic(
        running.url,
        pictures,
        rate=rate,
        job_every=2.0,
        datasets=False,
        idle_seconds=_IDLE_SECONDS,
    )
    await traffic.start(len(pictures))
    await asyncio.sleep(_CALM_SECONDS)
    rolled = {"both API processes": await asyncio.to_thread(_roll_api, running)}
    for name in ("worker", "worker-2"):
        rolled[name] = await asyncio.to_thread(_replace_worker, running, name)
    await asyncio.sleep(_CALM_SECONDS)
    account = await traffic.finish()
    return Outcome(account, rolled, await asyncio.to_thread(_stopped, running))


def _roll_api(running: Running) -> float:
    began = time.monotonic()
    running.processes["api"].send_signal(signal.SIGUSR2)
    running.await_that(lambda: _ROLLED in running.log("api"), READY_SECONDS)
    return time.monotonic() - began


def _replace_worker(running: Running, name: str) -> float:
    """The successor first would be easier; this is the harder way round."""
    began = time.monotonic()
    running.kill(name, signal.SIGTERM)
    running.run(name, "worker")
    running.await_that(lambda: len(running.worker_ids()) == 2, READY_SECONDS)
    return time.monotonic() - began


def _stopped(running: Running) -> dict[str, float]:
    """All told at once; how long each took."""
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


def run(rate: float, fetched: Path) -> Outcome:
    """In an installation made for it."""
    samples = sorted((fetched / "samples").glob("*.png"))
    pictures = {file.stem: file.read_bytes() for file in samples}
    with tempfile.TemporaryDirectory(prefix="opsin-restart-") as folder:
        running = installation(Path(folder), fetched)
        try:
            _begin(running)
            return asyncio.run(restarted(running, pictures, rate))
        finally:
            running.close()


def table(outcome: Outcome) -> Table:
    """What came of it, a line each."""
    made = Table("what", "value", title="Everything replaced under load", show_header=False)
    account = outcome.account
    failed = ", ".join(f"{count} {code}" for code, count in account.codes().items())
    made.add_row("requests sent", str(len(account.requests)))
    made.add_row("failed", failed or "0")
    made.add_row("connections cut", str(len(account.cut)))
    made.add_row("slowest answer", f"{max(o.ended - o.began for o in account.requests):.2f} s")
    ended = [*account.jobs.values(), *account.refused_jobs.elements()]
    made.add_row("jobs, of them succeeded", f"{len(ended)}, {ended.count('succeeded')}")
    for name, seconds in outcome.rolled.items():
        made.add_row(f"{name} replaced in", f"{seconds:.1f} s")
    for name, seconds in outcome.stopped.items():
        made.add_row(f"{name} told to stop, ended after", f"{seconds:.1f} s")
    made.add_row("verdict", "passed" if outcome.is_good else "[red]FAILED[/]")
    return made


def main() -> int:
    """Print the table; 1 if somebody noticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=20.0, help="Requests a second.")
    asked = parser.parse_args()
    # Told to end, it still stops all that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    outcome = run(asked.rate, Path(os.environ.get("OPSIN_HOME", ROOT / "var")))
    Console(width=100).print(table(outcome))
    return 0 if outcome.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
