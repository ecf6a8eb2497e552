"""All that one run of the benchmark measured, as it is written to JSON and read by the reports."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.load.plan import Result


@dataclass(slots=True)
class Row:
    """One server and one network.

    Attributes:
        name: Whose.
        version: Of the software.
        failure: Why it is not measured; None if it is.
        ready_seconds: From start to first answer.
        pss_mib: Memory of all its processes after the load.
        alone: One client, a result a round.
        crowd: Sixteen clients, a result a round.
        idle_cpu: Cores it uses while nobody asks.
    """

    name: str
    version: str
    failure: str | None = None
    ready_seconds: float = 0.0
    pss_mib: float = 0.0
    alone: list[Result] = field(default_factory=list)
    crowd: list[Result] = field(default_factory=list)
    idle_cpu: float = 0.0

    @property
    def throughput(self) -> float:
        """Images a second at sixteen clients, the median of the rounds; 0 if it failed."""
        return median(r.throughput for r in self.crowd) if self.crowd else 0.0

    @property
    def p99(self) -> float | None:
        """Milliseconds at sixteen clients, the median of the rounds."""
        found = [r.latency["p99"] for r in self.crowd if r.latency]
        return median(found) if found else None

    @property
    def p50_alone(self) -> float | None:
        """Milliseconds at one client, the median of the rounds."""
        found = [r.latency["p50"] for r in self.alone if r.latency]
        return median(found) if found else None

    @property
    def errors(self) -> int:
        return sum(sum(r.errors.values()) for r in (*self.alone, *self.crowd))


@dataclass(slots=True)
class Part:
    """One network, served by all.

    Attributes:
        title: The network.
        rounds: How often each was measured.
        floor: What `benchmarks.floor` printed.
        rows: Opsin first.
        curve: Opsin's result by number of clients.
        poisson: Opsin's result by share of its capacity.
        memory: Opsin's resident memory in MiB by process.
    """

    title: str
    rounds: int = 0
    floor: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    curve: dict[int, Result] = field(default_factory=dict)
    poisson: dict[float, Result] = field(default_factory=dict)
    memory: dict[str, float | None] = field(default_factory=dict)

    @property
    def opsin(self) -> Row:
        return self.rows[0]

    @property
    def best_peer(self) -> Row | None:
        """The fastest of the others, if any of them answered."""
        answered = [
            row for row in self.rows if row.throughput and not row.name.startswith(self.opsin.name)
        ]
        return max(answered, key=lambda row: row.throughput, default=None)

    def compute_core_ms(self) -> float | None:
        """Core-milliseconds of compute an image costs, at the best batch size."""
        found: dict[str, float] = self.floor.get("compute_core_ms", {})
        return min(found.values(), default=None)

    def bound(self, cores: int) -> float | None:
        """Images a second that decoding, computing and HTTP leave room for on all cores."""
        compute, decode = self.compute_core_ms(), self.floor.get("decode_core_ms")
        if compute is None or decode is None:
            return None
        return cores * 1000 / (decode + compute + self.floor["http_core_ms"])


@dataclass(slots=True)
class Figures:
    """The whole run.

    Attributes:
        machine: Processor, cores, memory, system, date, as pairs to print.
        settings: The OPSIN_… variables the caller set.
        cores: How many the process may use.
        roofline: What `benchmarks.roofline` printed.
        parts: One a network.
        load: Mean cores that others used before the start: a busy machine spoils a run.
        seconds: What it took.
        notes: What went otherwise than planned.
    """

    machine: dict[str, str]
    settings: dict[str, str]
    cores: int
    roofline: dict[str, Any] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    load: float = 0.0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")
