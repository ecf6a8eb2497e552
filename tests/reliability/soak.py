"""`make soak`: very many requests of every sort, and whether anything of the service grows.

    python -m tests.reliability.soak [--requests 100000] [--clients 6]

SqueezeNet's classifications, heatmaps by two methods (one from the SavedModel, one that loads Keras
and traces), pictures that are none, and clients that hang up. Memory, descriptors and threads of
each process, keys and connections of Valkey, and traced graphs are looked at all along. What stands
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
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from benchmarks.load.connection import Connection, ConnectionLostError, connect, request_of
from benchmarks.load.pictures import write_pictures
from tests.flow.running import ROOT
from tests.reliability.house import House, opened

WARM_SHARE = 0.2
MOST_GROWTH = 0.05
SAMPLES = 60
_TIMEOUT_SECONDS = 60.0
_MIB = 1024 * 1024
_ROLES = ("api", "worker", "jobs", "valkey")
_CLASSIFY = "/v1/classify"
# Of a hundred requests; the first heatmap comes from the SavedModel, the second needs Keras.
MIX = (
    (90, _CLASSIFY, "picture"),
    (3, "/v1/heatmap", "picture"),
    (1, "/v1/heatmap?method=layer_cam", "picture"),
    (3, _CLASSIFY, "no picture"),
    (1, "/v1/classify?top_k=nonsense", "picture"),
    (1, "/v1/classify?model=nobody", "picture"),
    (1, _CLASSIFY, "hangs up"),
)
EXPECTED = {"200", "404", "422", "hung up"}
"""What the mix ends in; a 429 or a 503 would mean that it was not steady."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the service: a number for everything that must not grow."""

    done: int
    figures: Mapping[str, float]


class Load:
    """So many requests, in turn by the mix, from clients that each wait for their answer.

    Args:
        port: Where to.
        pictures: JPEG files.
        requests: How many.

    Attributes:
        became: How many ended how.
        told: Of every unexpected end, what was asked and what the last one said.
    """

    def __init__(self, port: int, pictures: Sequence[bytes], requests: int) -> None:
        self.became: Counter[str] = Counter()
        self.told: dict[str, str] = {}
        self.done = 0
        self._last = b""
        self._port = port
        self._pictures = pictures
        self._requests = requests
        self._begun = 0
        kinds = [(path, kind) for share, path, kind in MIX for _ in range(share)]
        # 37 has no factor in common with 100, so a round meets each once, well mixed.
        self._kinds = [kinds[(37 * at) % len(kinds)] for at in range(len(kinds))]

    async def run(self, clients: int) -> None:
        """Send them all."""
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(self._client())

    async def _client(self) -> None:
        connection: Connection | None = None
        while self._begun < self._requests:
            number, self._begun = self._begun, self._begun + 1
            path, kind = self._kinds[number % len(self._kinds)]
            body = self._pictures[number % len(self._pictures)]
            if kind == "no picture":
                body = body[: 200 + number % 2000]
            if connection is None or not connection.is_open:
                connection = await connect(self._port)
            became = await self._ask(connection, *request_of(self._port, path, body, None), kind)
            self.became[became] += 1
            if became not in EXPECTED:
                self.told[f"{became} {path}"] = self._last.decode(errors="replace")[:400]
            self.done += 1
        if connection is not None:
            connection.close()

    async def _ask(self, connection: Connection, head: bytes, body: bytes, kind: str) -> str:
        if kind == "hangs up":
            answer = connection.post(head, body)
            await asyncio.sleep(0.005)
            connection.close()
            answer.cancel()
            return "hung up"
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                said = await connection.post(head, body)
                self._last = said.body
                return str(said.status)
        except TimeoutError:
            connection.close()
            return "no answer"
        except ConnectionLostError:
            return "connection lost"


class Watch:
    """Looks at a house."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._processes = {role: house.one(role) for role in _ROLES}

    def look(self, done: int) -> Sample:
        """All figures now."""
        figures: dict[str, float] = {}
        for role, process in self._processes.items():
            with process.oneshot():
                figures[f"{role}: memory, MiB"] = process.memory_info().rss / _MIB
                figures[f"{role}: descriptors"] = process.num_fds()
                figures[f"{role}: threads"] = process.num_threads()
        for role in ("api", "worker", "jobs"):
            figures[f"{role}: database connections"] = _opened(self._processes[role], "opsin.db")
        with redis.Redis.from_url(self._house.redis_url) as client:
            figures["valkey: keys"] = client.dbsize()
            figures["valkey: connections"] = client.info("clients")["connected_clients"]
        workers = httpx.get(f"{self._house.url}/v1/system", timeout=30).json()["workers"]
        figures["worker: traced graphs"] = sum(worker["traces"] for worker in workers)
        return Sample(done, figures)


def _opened(process: psutil.Process, name: str) -> int:
    """How often a process has a file of that name open: SQLite's connections."""
    return sum(Path(one.path).name == name for one in process.open_files())


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
        """Within 5 %, or two where it is a handful of something."""
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


async def soak(
    house: House, pictures: Sequence[bytes], requests: int, clients: int, console: Console
) -> tuple[Load, list[Sample]]:
    """Send them, and look all along."""
    load, watch = Load(house.port, pictures, requests), Watch(house)
    samples: list[Sample] = []
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    running = asyncio.create_task(load.run(clients))
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=requests)
        while not running.done():
            if load.done >= len(samples) * requests / SAMPLES:
                samples.append(await asyncio.to_thread(watch.look, load.done))
            progress.update(bar, completed=load.done)
            await asyncio.wait([running], timeout=0.25)
    await running
    samples.append(await asyncio.to_thread(watch.look, load.done))
    return load, samples


def table(found: Sequence[Verdict], requests: int) -> Table:
    """The figures, one a row."""
    made = Table(title=f"What {requests:,} requests left behind")
    for heading in ("figure", "after the warm-up", "at the end", "most", "growth"):
        made.add_column(heading, justify="left" if heading == "figure" else "right")
    for one in found:
        mark = "" if one.is_flat else "[red]"
        row = (f"{one.early:.0f}", f"{one.late:.0f}", f"{one.most:.0f}", f"{one.growth:+.1%}")
        made.add_row(mark + one.name, *(mark + cell for cell in row))
    return made


def main() -> int:
    """Soak it; 1 if anything grew or went otherwise than expected."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--samples", type=Path, help="A file for all samples, as JSON.")
    asked = parser.parse_args()
    # Told to end, it still stops all that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    fetched, console = Path(os.environ.get("OPSIN_HOME", ROOT / "var")), Console(width=100)
    with tempfile.TemporaryDirectory(prefix="opsin-soak-") as folder:
        files = write_pictures(fetched / "samples", Path(folder, "pictures"))
        pictures = [file.read_bytes() for file in files]
        # Every heatmap is computed: from the cache they would cost nothing, and show nothing.
        house = House(
            Path(folder, "house"),
            fetched,
            # Nor is a worker replaced because Keras has doubled it: its growth is to be seen.
            {"OPSIN_HEATMAP_CACHE_MB": "0", "OPSIN_WORKER_MEMORY_MB": "8000"},
            store=fetched / "store",
        )
        began = time.monotonic()
        with opened(house):
            load, samples = asyncio.run(
                soak(house, pictures, asked.requests, asked.clients, console)
            )
        seconds = time.monotonic() - began
    if asked.samples:
        told = [{"done": one.done, **one.figures} for one in samples]
        asked.samples.write_text(json.dumps(told, indent=1))
    found = verdicts(samples)
    console.print(table(found, asked.requests))
    became = ", ".join(f"{count:,} {code}" for code, count in load.became.most_common())
    console.print(f"{became}; {seconds / 60:.0f} minutes")
    for what, told in load.told.items():
        console.print(f"{what}: {told}", markup=False)
    is_good = all(one.is_flat for one in found) and set(load.became) <= EXPECTED
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
