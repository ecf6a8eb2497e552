"""`make soak`: sends very many requests of all kinds and checks whether anything grows.

    python -m tests.reliability.soak [--requests 100000] [--clients 6] [--samples soak.jsonl]
    python -m tests.reliability.soak --postgresql
    python -m tests.reliability.soak --judge soak.jsonl

The load consists of classifications with SqueezeNet, heatmaps by two methods (one from the
SavedModel, one that loads Keras and traces), files that are not images, and clients that hang up.
Memory, descriptors and threads of each process, keys and connections of Valkey, and traced graphs
are sampled and written down during the run, so that an interrupted run has a verdict too. The
figures after a fifth of the requests are the baseline; the exit status is 1 if any grew beyond it.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import redis
from rich.console import Console
from rich.table import Table
from sqlalchemy import make_url

from benchmarks.load.images import write_images
from tests.flow.installation import ROOT
from tests.postgresql import database_settings
from tests.reliability.deployment import Deployment, started
from tests.reliability.soak_load import DEADLINE_SECONDS, EXPECTED, Load

WARM_SHARE = 0.2
MAX_GROWTH = 0.05
# Of a small process 5% are less than what its allocator keeps or gives back from moment to moment:
# Valkey has 11 MiB, which vary by 3. Of the API, 5% are ten.
_MEMORY_GRAIN = 2.0
SAMPLES = 60
_MIB = 1024 * 1024
_ROLES = ("api", "worker", "jobs", "valkey")
_MEMORIES = ("api: memory, MiB", "worker: memory, MiB")
_SETTINGS = {
    # Every heatmap is computed: cached ones would cost nothing, and show nothing.
    "OPSIN_HEATMAP_CACHE_MB": "0",
    # A worker that Keras has doubled is not replaced, so that its growth shows.
    "OPSIN_WORKER_MEMORY_MB": "8000",
    "OPSIN_DEFAULT_TIMEOUT_MS": f"{DEADLINE_SECONDS * 1000:g}",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """A number for everything that must not grow, after `done` requests."""

    done: int
    figures: Mapping[str, float]


class Sampler:
    """Samples a deployment."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._processes = {role: deployment.wait_for(role) for role in _ROLES}

    def sample(self, done: int) -> Sample:
        """The present figures.

        Raises:
            RuntimeError: One of the processes has ended since the start.
        """
        figures: dict[str, float] = {}
        for role, process in self._processes.items():
            try:
                figures |= _figures(role, process)
            except psutil.NoSuchProcess:
                raise RuntimeError(f"the process {role} ended after {done:,} requests") from None
        port = make_url(self._deployment.database_url).port
        for role in ("api", "worker", "jobs") if port else ():
            connections = self._processes[role].net_connections("tcp")
            opened = sum(bool(c.raddr) and c.raddr.port == port for c in connections)
            figures[f"{role}: database connections"] = opened
        with redis.Redis.from_url(self._deployment.redis_url) as client:
            # Others, such as the marks of clients that hung up, expire: their number is that of the
            # last two minutes, and says nothing about what stays.
            keys = client.info("keyspace").get("db0", {"keys": 0, "expires": 0})
            figures["valkey: keys that do not expire"] = keys["keys"] - keys["expires"]
            figures["valkey: connections"] = client.info("clients")["connected_clients"]
        workers = httpx.get(f"{self._deployment.url}/v1/system", timeout=DEADLINE_SECONDS).json()
        figures["worker: traced graphs"] = sum(worker["traces"] for worker in workers["workers"])
        return Sample(done, figures)


def _figures(role: str, process: psutil.Process) -> dict[str, float]:
    with process.oneshot():
        figures: dict[str, float] = {
            f"{role}: memory, MiB": process.memory_info().rss / _MIB,
            f"{role}: descriptors": process.num_fds(),
            f"{role}: threads": process.num_threads(),
        }
    if role != "valkey":
        # SQLite's connections: how often it has the file open.
        opened_files = [Path(file.path).name for file in process.open_files()]
        figures[f"{role}: database connections"] = opened_files.count("opsin.db")
    return figures


class Journal:
    """All samples, written down at once.

    Args:
        console: Prints a line for each sample.
        file: Where each sample is written as a line of JSON; None for nowhere.
    """

    def __init__(self, console: Console, file: Path | None = None) -> None:
        self.samples: list[Sample] = []
        self._console = console
        self._file = file
        self._began = time.monotonic()
        if file is not None:
            file.write_text("")

    def add(self, sample: Sample, load: Load) -> None:
        """Add a sample, and print the state of the load."""
        self.samples.append(sample)
        seconds = time.monotonic() - self._began
        memory = ", ".join(f"{name} {sample.figures[name]:.0f}" for name in _MEMORIES)
        self._console.print(
            f"{seconds / 60:6.1f} min  {sample.done:>7,} requests, {load.unexpected} unexpected; "
            f"{memory}",
            highlight=False,
        )
        if self._file is not None:
            line = {"done": sample.done, "became": dict(load.outcomes), "figures": sample.figures}
            with self._file.open("a") as journal:
                journal.write(json.dumps(line) + "\n")


@dataclass(frozen=True, slots=True)
class FigureGrowth:
    """One figure at the beginning and at the end.

    Attributes:
        early: After the warm-up: the median of a fifth of the samples.
        middle: The median of the fifth in the middle.
        late: The median of the last fifth.
        maximum: The largest after the warm-up.
    """

    name: str
    early: float
    middle: float
    late: float
    maximum: float

    @property
    def growth(self) -> float:
        """Relative to the beginning."""
        return (self.late - self.early) / self.early if self.early else float(self.late > 0)

    @property
    def is_flat(self) -> bool:
        """Whether it grew by at most 5%, or by less than 2 MiB or 3; graphs may not.

        What is counted may also stop growing. A pool opens its last connections late, and each one
        to SQLite has two or three descriptors.
        """
        if self.name.endswith("traced graphs"):
            return self.late <= self.early
        is_memory = "MiB" in self.name
        too_much = _MEMORY_GRAIN if is_memory else 8 if "descriptors" in self.name else 3
        has_stopped = not is_memory and self.late <= self.middle
        return has_stopped or self.growth <= MAX_GROWTH or self.late - self.early < too_much


def growth_of_figures(samples: Sequence[Sample]) -> list[FigureGrowth]:
    """The growth of every figure.

    Args:
        samples: In order; those of the warm-up are ignored.
    """
    warm_up = samples[int(len(samples) * WARM_SHARE) :]
    fifth = max(1, len(warm_up) // 5)
    growth = []
    for name in warm_up[0].figures:
        row = [sample.figures[name] for sample in warm_up]
        parts = (row[:fifth], row[2 * fifth : 3 * fifth] or row, row[-fifth:])
        growth.append(FigureGrowth(name, *map(statistics.median, parts), max(row)))
    return growth


async def soak(deployment: Deployment, load: Load, clients: int, journal: Journal) -> None:
    """Send the load, and take samples during it."""
    await load.warm_up(clients)
    sampler = Sampler(deployment)
    running = asyncio.create_task(load.run(clients))
    while not running.done():
        if load.done >= len(journal.samples) * load.requests / SAMPLES:
            journal.add(await asyncio.to_thread(sampler.sample, load.done), load)
        await asyncio.wait([running], timeout=0.25)
    await running
    journal.add(await asyncio.to_thread(sampler.sample, load.done), load)


def table(samples: Sequence[Sample]) -> Table:
    """The figures, one in each row."""
    result_table = Table(title=f"After {samples[-1].done:,} requests")
    for heading in ("figure", "after the warm-up", "at the end", "maximum", "growth"):
        result_table.add_column(heading, justify="left" if heading == "figure" else "right")
    for figure in growth_of_figures(samples):
        mark = "" if figure.is_flat else "[red]"
        values = (figure.early, figure.late, figure.maximum)
        row = (*(f"{value:.0f}" for value in values), f"{figure.growth:+.1%}")
        result_table.add_row(mark + figure.name, *(mark + cell for cell in row))
    return result_table


def print_verdict(console: Console, samples: Sequence[Sample], outcomes: Mapping[str, int]) -> bool:
    """Print the result; whether nothing grew and all requests ended as expected."""
    if not samples:
        console.print("no sample was taken")
        return False
    console.print(table(samples))
    console.print(", ".join(f"{count:,} {end}" for end, count in sorted(outcomes.items())))
    return (
        all(figure.is_flat for figure in growth_of_figures(samples)) and set(outcomes) <= EXPECTED
    )


def _judge_file(console: Console, file: Path) -> bool:
    """Judge a journal."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    samples = [Sample(line["done"], line["figures"]) for line in lines]
    return print_verdict(console, samples, lines[-1]["became"] if lines else {})


def _run(
    console: Console, requests: int, clients: int, file: Path | None, database: Mapping[str, str]
) -> bool:
    """Run the load on a new deployment and judge the result, even if it is interrupted."""
    fetched, journal = Path(os.environ.get("OPSIN_HOME", ROOT / "var")), Journal(console, file)
    began, complete = time.monotonic(), False
    with tempfile.TemporaryDirectory(prefix="opsin-soak-") as folder:
        files = write_images(fetched / "samples", Path(folder, "images"))
        deployment = Deployment(
            Path(folder, "deployment"), fetched, {**_SETTINGS, **database}, store=fetched / "store"
        )
        with started(deployment):
            load = Load(deployment.port, [file.read_bytes() for file in files], requests)
            with suppress(KeyboardInterrupt):
                try:
                    asyncio.run(soak(deployment, load, clients, journal))
                    complete = True
                except RuntimeError as error:
                    console.print(
                        f"{error}\n{deployment.log_tails()}", markup=False, highlight=False
                    )
    is_good = print_verdict(console, journal.samples, load.outcomes)
    for request, answer in load.unexpected_answers.items():
        console.print(f"{request}: {answer}", markup=False)
    console.print(f"{(time.monotonic() - began) / 60:.0f} minutes")
    return is_good and complete


def main() -> int:
    """Run it; 1 if anything grew or ended unexpectedly, or the run was interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--postgresql", action="store_true", help="Instead of SQLite.")
    parser.add_argument("--samples", type=Path, help="A file for all samples, one per line.")
    parser.add_argument("--judge", type=Path, help="Send nothing; judge such a file.")
    arguments = parser.parse_args()
    console = Console(width=110)
    if arguments.judge is not None:
        return 0 if _judge_file(console, arguments.judge) else 1
    # On SIGTERM, it still stops everything it started and prints what it has measured.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with database_settings("soak", postgresql=arguments.postgresql) as database:
        is_good = _run(console, arguments.requests, arguments.clients, arguments.samples, database)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
