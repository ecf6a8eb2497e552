"""The results of one run of the benchmark, as written to JSON and read by the reports.

Field names are the keys in `results.json`.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.load.plan import Result
from benchmarks.servers import Memory


@dataclass(slots=True)
class Row:
    """One server and one network.

    Attributes:
        name: Name of the server.
        version: Version of its software.
        failure: Why it could not be measured, or None.
        ready_seconds: From the start to the first response.
        pss_mib: Memory of all its processes after the load.
        alone: Results with one client, one per round.
        crowd: Results with sixteen clients, one per round.
        poisson: Results with Poisson arrivals by share of Opsin's capacity.
        idle_cpu: Cores it uses without load.
        has_our_runtime: A peer that computes with Opsin's runtime and precision: not what its
            documentation recommends, but what shows the serving layer alone.
    """

    name: str
    version: str
    failure: str | None = None
    ready_seconds: float = 0.0
    pss_mib: float = 0.0
    alone: list[Result] = field(default_factory=list)
    crowd: list[Result] = field(default_factory=list)
    poisson: dict[float, Result] = field(default_factory=dict)
    idle_cpu: float = 0.0
    has_our_runtime: bool = False

    @property
    def throughput(self) -> float:
        """Images per second at sixteen clients, the median of the rounds; 0 if it failed."""
        return median(r.throughput for r in self.crowd) if self.crowd else 0.0

    @property
    def p99(self) -> float | None:
        """Milliseconds at sixteen clients, the median of the rounds."""
        values = [r.latency["p99"] for r in self.crowd if r.latency]
        return median(values) if values else None

    @property
    def p50_alone(self) -> float | None:
        """Milliseconds at one client, the median of the rounds."""
        values = [r.latency["p50"] for r in self.alone if r.latency]
        return median(values) if values else None

    @property
    def errors(self) -> int:
        return sum(sum(r.errors.values()) for r in (*self.alone, *self.crowd))


@dataclass(slots=True)
class Part:
    """The results of one network.

    Attributes:
        title: The network.
        rounds: Number of measurements of each server.
        floor: Output of `benchmarks.comparison.floor`.
        rows: Opsin first.
        curve: Opsin's result by number of clients.
        memory: Of Opsin's processes.
        cpu: By number of clients, core-milliseconds of an image in each process.
    """

    title: str
    rounds: int = 0
    floor: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    curve: dict[int, Result] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)
    cpu: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def opsin(self) -> Row:
        return self.rows[0]

    @property
    def best_peer(self) -> Row | None:
        """The fastest peer that was measured, if any, of those with a runtime of their own."""
        return self._fastest(has_our_runtime=False)

    @property
    def best_with_our_runtime(self) -> Row | None:
        """The fastest peer of those that compute with Opsin's runtime, if any."""
        return self._fastest(has_our_runtime=True)

    @property
    def peers(self) -> list[Row]:
        """All rows but Opsin's."""
        return [row for row in self.rows if not row.name.startswith(self.opsin.name)]

    def _fastest(self, *, has_our_runtime: bool) -> Row | None:
        measured = [
            row for row in self.peers if row.throughput and row.has_our_runtime == has_our_runtime
        ]
        return max(measured, key=lambda row: row.throughput, default=None)

    def compute_core_ms(self) -> float | None:
        """Core-milliseconds of compute per image, at the best batch size."""
        costs: dict[str, float] = self.floor.get("compute_core_ms", {})
        return min(costs.values(), default=None)

    def bound(self, cores: int) -> float | None:
        """Upper bound of images per second, from the cost of decoding, computing and HTTP."""
        compute, decode = self.compute_core_ms(), self.floor.get("decode_core_ms")
        if compute is None or decode is None:
            return None
        return float(cores * 1000 / (decode + compute + self.floor["http_core_ms"]))


@dataclass(slots=True)
class Figures:
    """The whole run.

    Attributes:
        machine: Processor, cores, memory, system and date.
        settings: The OPSIN_… variables of the caller.
        cores: Number of cores that the process may use.
        roofline: Output of `benchmarks.comparison.roofline`.
        parts: One per network.
        load: Mean number of cores that other processes used before the start.
        seconds: Duration of the run.
        notes: Warnings and deviations from the plan.
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
