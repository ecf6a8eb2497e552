"""`make soak`: very many requests of every sort, and whether anything of the service grows.

    python -m tests.reliability.soak [--requests 100000] [--clients 6] [--samples soak.jsonl]
    python -m tests.reliability.soak --judge soak.jsonl

SqueezeNet's classifications, heatmaps by two methods (one from the SavedModel, one that loads Keras
and traces), pictures that are none, and clients that hang up. Memory, descriptors and threads of
each process, keys and connections of Valkey, and traced graphs are looked at all along, and written
down as they are seen: a run that is cut short has a verdict, too, over what it did. What stands
after a fifth of the requests is the measure; the exit status is 1 if the end is above it.
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

from benchmarks.load.pictures import write_pictures
from tests.flow.running import ROOT
from tests.reliability.house import House, opened
from tests.reliability.soak_load import DEADLINE_SECONDS, EXPECTED, Load

WARM_SHARE = 0.2
MOST_GROWTH = 0.05
SAMPLES = 60
_MIB = 1024 * 1024
_ROLES = ("api", "worker", "jobs", "valkey")
_MEMORIES = ("api: memory, MiB", "worker: memory, MiB")
_SETTINGS = {
    # Every heatmap is computed: from the cache they would cost nothing, and show nothing.
    "OPSIN_HEATMAP_CACHE_MB": "0",
    # Nor is a worker replaced because Keras has doubled it: its growth is to be seen.
    "OPSIN_WORKER_MEMORY_MB": "8000",
    "OPSIN_DEFAULT_TIMEOUT_MS": f"{DEADLINE_SECONDS * 1000:g}",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the service: a number for everything that must not grow."""

    done: int
    figures: Mapping[str, float]


class Watch:
    """Looks at a house."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._processes = {role: house.one(role) for role in _ROLES}

    def look(self, done: int) -> Sample:
        """All figures now.

        Raises:
            RuntimeError: One of the processes that were there at first is not there any more.
        """
        figures: dict[str, float] = {}
        for role, process in self._processes.items():
            try:
                figures |= _figures(role, process)
            except psutil.NoSuchProcess:
                raise RuntimeError(f"the process {role} ended after {done:,} requests") from None
        with redis.Redis.from_url(self._house.redis_url) as client:
            figures["valkey: keys"] = client.dbsize()
            figures["valkey: connections"] = client.info("clients")["connected_clients"]
        workers = httpx.get(f"{self._house.url}/v1/system", timeout=DEADLINE_SECONDS).json()
        figures["worker: traced graphs"] = sum(one["traces"] for one in workers["workers"])
        return Sample(done, figures)


def _figures(role: str, process: psutil.Process) -> dict[str, float]:
    with process.oneshot():
        found: dict[str, float] = {
            f"{role}: memory, MiB": process.memory_info().rss / _MIB,
            f"{role}: descriptors": process.num_fds(),
            f"{role}: threads": process.num_threads(),
        }
    if role != "valkey":
        # SQLite's connections: how often it has the file open.
        opened_files = [Path(one.path).name for one in process.open_files()]
        found[f"{role}: database connections"] = opened_files.count("opsin.db")
    return found


class Journal:
    """What was seen, written down at once.

    Args:
        console: Told each look in a line.
        file: Where it is kept, a JSON object a line; None keeps it here alone.
    """

    def __init__(self, console: Console, file: Path | None = None) -> None:
        self.samples: list[Sample] = []
        self._console = console
        self._file = file
        self._began = time.monotonic()
        if file is not None:
            file.write_text("")

    def add(self, sample: Sample, load: Load) -> None:
        """One look, and how the load fares."""
        self.samples.append(sample)
        seconds = time.monotonic() - self._began
        memory = ", ".join(f"{name} {sample.figures[name]:.0f}" for name in _MEMORIES)
        self._console.print(
            f"{seconds / 60:6.1f} min  {sample.done:>7,} requests, {load.unexpected} unexpected; "
            f"{memory}",
            highlight=False,
        )
        if self._file is not None:
            line = {"done": sample.done, "became": dict(load.became), "figures": sample.figures}
            with self._file.open("a") as journal:
                journal.write(json.dumps(line) + "\n")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure, early and late.

    Attributes:
        name: Of what.
        early: Where it stood after the warm-up: the median of a fifth of the samples.
        late: Where it stood in the last fifth.
        most: The largest of all after the warm-up.
    """

    name: str
    early: float
    late: float
    most: float

    @property
    def growth(self) -> float:
        """As a share of what it was."""
        return (self.late - self.early) / self.early if self.early else float(self.late > 0)

    @property
    def is_flat(self) -> bool:
        """Within 5 %, or two where it is a handful of something; a graph more is one too many."""
        if self.name.endswith("traced graphs"):
            return self.late <= self.early
        return self.growth <= MOST_GROWTH or ("MiB" not in self.name and self.late - self.early < 3)


def verdicts(samples: Sequence[Sample]) -> list[Verdict]:
    """Every figure's.

    Args:
        samples: In order; those of the warm-up are left out.
    """
    warm = samples[int(len(samples) * WARM_SHARE) :]
    fifth = max(1, len(warm) // 5)
    found = []
    for name in warm[0].figures:
        row = [one.figures[name] for one in warm]
        early, late = statistics.median(row[:fifth]), statistics.median(row[-fifth:])
        found.append(Verdict(name, early, late, max(row)))
    return found


async def soak(house: House, load: Load, clients: int, journal: Journal) -> None:
    """Send them, and look all along."""
    await load.warm(clients)
    watch = Watch(house)
    running = asyncio.create_task(load.run(clients))
    while not running.done():
        if load.done >= len(journal.samples) * load.requests / SAMPLES:
            journal.add(await asyncio.to_thread(watch.look, load.done), load)
        await asyncio.wait([running], timeout=0.25)
    await running
    journal.add(await asyncio.to_thread(watch.look, load.done), load)


def table(samples: Sequence[Sample]) -> Table:
    """The figures, one a row."""
    made = Table(title=f"What {samples[-1].done:,} requests left behind")
    for heading in ("figure", "after the warm-up", "at the end", "most", "growth"):
        made.add_column(heading, justify="left" if heading == "figure" else "right")
    for one in verdicts(samples):
        mark = "" if one.is_flat else "[red]"
        row = (f"{one.early:.0f}", f"{one.late:.0f}", f"{one.most:.0f}", f"{one.growth:+.1%}")
        made.add_row(mark + one.name, *(mark + cell for cell in row))
    return made


def judged(console: Console, samples: Sequence[Sample], became: Mapping[str, int]) -> bool:
    """Print the account; whether nothing grew and all ended as expected."""
    if not samples:
        console.print("not one look was taken")
        return False
    console.print(table(samples))
    console.print(", ".join(f"{count:,} {end}" for end, count in sorted(became.items())))
    return all(one.is_flat for one in verdicts(samples)) and set(became) <= EXPECTED


def _again(console: Console, file: Path) -> bool:
    """The verdict over a journal."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    samples = [Sample(line["done"], line["figures"]) for line in lines]
    return judged(console, samples, lines[-1]["became"] if lines else {})


def _run(console: Console, requests: int, clients: int, file: Path | None) -> bool:
    """A house, the load on it, and the verdict, over what was done if it is cut short."""
    fetched, journal = Path(os.environ.get("OPSIN_HOME", ROOT / "var")), Journal(console, file)
    began, whole = time.monotonic(), False
    with tempfile.TemporaryDirectory(prefix="opsin-soak-") as folder:
        files = write_pictures(fetched / "samples", Path(folder, "pictures"))
        house = House(Path(folder, "house"), fetched, _SETTINGS, store=fetched / "store")
        with opened(house):
            load = Load(house.port, [one.read_bytes() for one in files], requests)
            with suppress(KeyboardInterrupt):
                try:
                    asyncio.run(soak(house, load, clients, journal))
                    whole = True
                except RuntimeError as ended:
                    console.print(f"{ended}\n{house.tails()}", markup=False, highlight=False)
    is_good = judged(console, journal.samples, load.became)
    for what, told in load.told.items():
        console.print(f"{what}: {told}", markup=False)
    console.print(f"{(time.monotonic() - began) / 60:.0f} minutes")
    return is_good and whole


def main() -> int:
    """Soak it; 1 if anything grew, went otherwise than expected, or it was cut short."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--samples", type=Path, help="A file for all that is seen, line by line.")
    parser.add_argument("--judge", type=Path, help="Send nothing; the verdict over such a file.")
    asked = parser.parse_args()
    console = Console(width=110)
    if asked.judge is not None:
        return 0 if _again(console, asked.judge) else 1
    # Told to end, it still stops all that it started, and says what it has seen.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return 0 if _run(console, asked.requests, asked.clients, asked.samples) else 1


if __name__ == "__main__":
    sys.exit(main())
