"""Compares all servers of one network: they run at the same time and are measured in turns.

Other load on the machine then affects all of them: a round measures each server once, each round
starts with another server, and a figure is the median of the rounds. A peer that uses CPU while it
is idle is frozen while others are measured, because it would slow them down.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from benchmarks.comparison.figures import Part, Row
from benchmarks.comparison.preparation import Bench, peer_version
from benchmarks.load.plan import Plan, Result
from benchmarks.load.process import LoadFailedError, measure
from benchmarks.servers import Launch, Server, ServerFailedError
from benchmarks.systems import OPSIN, PEERS, ROOT, Subject, opsin
from contracts.settings import RELEASE

CROWD = 16
CURVE = (1, 2, 4, 8, 16, 32)
_OPEN_CLIENTS = 256
_IDLE_SECONDS = 3.0
_BUSY_CORES = 0.05
_LAST_START_SECONDS = 60.0
_STOP_ALL_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long each measurement takes.

    Attributes:
        rounds: Measurements of each server.
        alone: Seconds with one client.
        crowd: Seconds with sixteen clients.
        warmup: Seconds of warm-up before each measurement.
        curve: Seconds at each number of clients; 0 skips the curve.
        poisson: Seconds at each share of the capacity.
        shares: Shares of Opsin's capacity; empty skips Poisson arrivals.
        peer_shares: Those of them at which the peers are measured as well.
        start: Seconds that a server may take to start.
    """

    rounds: int
    alone: float
    crowd: float
    warmup: float
    curve: float
    poisson: float
    shares: tuple[float, ...]
    peer_shares: tuple[float, ...] = ()
    start: float = 120.0


class Comparison:
    """One network's part of the benchmark.

    Args:
        subject: The network.
        bench: Folder of images, store and logs.
        weights: Folder of weights.
        schedule: Duration of the measurements.
        until: `time.monotonic()` by which everything should end.
        precisions: Additional values of OPSIN_PRECISION to measure.
        status: Receives the current activity.
    """

    def __init__(
        self,
        subject: Subject,
        bench: Bench,
        weights: Path,
        *,
        schedule: Schedule,
        until: float,
        first_port: int,
        precisions: Sequence[str] = (),
        status: "Status",
    ) -> None:
        self._subject = subject
        self._bench = bench
        self._schedule = schedule
        self._until = until
        self._status = status
        self._plan = Plan(0, "", str(bench.images.absolute()), warmup=schedule.warmup)
        ours = opsin(subject, first_port, bench.home.absolute(), weights)
        self._launches: dict[str, Launch] = {OPSIN: ours}
        for port, value in enumerate(precisions, first_port + len(PEERS) + 1):
            home = bench.variant(value).absolute()
            self._launches[f"{OPSIN} {value}"] = opsin(subject, port, home, weights, value)
        self._busy_when_idle: list[Server] = []
        self._ours = tuple(self._launches)
        for port, peer in enumerate(PEERS, first_port + 1):
            self._launches[peer.name] = peer.launch(subject, port, bench.folder.absolute())
        self._versions = dict.fromkeys(self._ours, RELEASE)
        self._versions |= {peer.name: peer_version(peer.package) for peer in PEERS}
        self._with_our_runtime = {peer.name for peer in PEERS if peer.has_our_runtime}

    def run(self, part: Part, *, peers: bool) -> None:
        """Fill `part`; failures are recorded in its rows."""
        names = list(self._launches if peers else self._ours)
        part.rows = [
            Row(name, self._versions[name], has_our_runtime=name in self._with_our_runtime)
            for name in names
        ]
        with self._running(part.rows) as servers:
            self._rounds(part, servers)
            for row in part.rows:
                if row.name in servers and row.failure is None:
                    row.pss_mib = servers[row.name].pss_mib()
            if OPSIN in servers:
                self._opsin_alone(part, servers[OPSIN])
                self._poisson(part, servers)

    @contextlib.contextmanager
    def _running(self, rows: Sequence[Row]) -> Iterator[dict[str, Server]]:
        """The servers that have started, by name; the rows of the others say why they have not."""
        servers: dict[str, Server] = {}
        try:
            for row in rows:
                if servers and self._left < _LAST_START_SECONDS:
                    row.failure = "no time left to start it"
                    continue
                self._status.update(f"{self._subject.title}: starting {row.name}")
                log = (
                    self._bench.folder
                    / "logs"
                    / f"{self._subject.model}-{row.name.lower().replace(' ', '-')}.log"
                )
                log.parent.mkdir(parents=True, exist_ok=True)
                try:
                    server = Server(self._launches[row.name], folder=ROOT, log=log)
                except OSError as error:
                    row.failure = f"did not start: {error.strerror}"
                    continue
                servers[row.name] = server
                try:
                    server.await_ready(self._bench.image(), seconds=self._schedule.start)
                    self._check_precision(row.name)
                except (ServerFailedError, httpx.HTTPError) as error:
                    row.failure = str(error)
                    server.stop()
                    del servers[row.name]
                row.ready_seconds = server.ready_seconds
            yield servers
        finally:
            for server in servers.values():
                server.stop()

    def _check_precision(self, name: str) -> None:
        """A row must not show another precision than it names.

        Raises:
            ServerFailedError: Opsin serves another one; the message says why.
        """
        precision = name.removeprefix(OPSIN).strip()
        if name not in self._ours or not precision:
            return
        url = f"http://127.0.0.1:{self._launches[name].port}/v1/models"
        items = httpx.get(url, timeout=10.0).raise_for_status().json()["items"]
        served = next(item for item in items if item["name"] == self._subject.model)
        if served["runtime"] and not served["runtime"].endswith(precision):
            raise ServerFailedError(f"serves {served['runtime']}: {served['runtime_reason']}")

    def _rounds(self, part: Part, servers: dict[str, Server]) -> None:
        rows = [row for row in part.rows if row.name in servers]
        began = {row.name: servers[row.name].cpu_seconds() for row in rows}
        time.sleep(_IDLE_SECONDS)
        for row in rows:
            row.idle_cpu = (servers[row.name].cpu_seconds() - began[row.name]) / _IDLE_SECONDS
        # Only peers: a frozen Opsin would consider its own workers dead.
        peers = [row for row in rows if row.name not in self._ours]
        busy = [servers[row.name] for row in peers if row.idle_cpu > _BUSY_CORES]
        self._busy_when_idle = busy
        for server in busy:
            server.freeze()
        for number in range(self._schedule.rounds):
            if number and self._left < self._after_rounds + self._round_seconds(len(rows)):
                break
            first = number % len(rows) if rows else 0
            for row in rows[first:] + rows[:first]:
                self._status.update(
                    f"{part.title}: round {number + 1} of {self._schedule.rounds}, {row.name}"
                )
                server = servers[row.name]
                server.thaw()
                self._measure_row(row)
                if server in busy:
                    server.freeze()
            part.rounds = number + 1

    @property
    def _left(self) -> float:
        """Seconds until everything should have ended."""
        return self._until - time.monotonic()

    @property
    def _after_rounds(self) -> float:
        """Seconds needed for the curve and for Poisson arrivals."""
        schedule = self._schedule
        curve = len(CURVE) * (schedule.curve + schedule.warmup) if schedule.curve else 0.0
        curve += 2 * schedule.crowd  # for the processor time
        shares = len(schedule.shares) + len(schedule.peer_shares) * (len(self._launches) - 1)
        return curve + shares * (schedule.poisson + schedule.warmup) + _STOP_ALL_SECONDS

    def _round_seconds(self, servers: int) -> float:
        schedule = self._schedule
        alone = schedule.alone + schedule.warmup if schedule.alone else 0.0
        return servers * (alone + schedule.crowd + schedule.warmup)

    def _measure_row(self, row: Row) -> None:
        try:
            if self._schedule.alone:
                row.alone.append(self._measure(row.name, 1, self._schedule.alone))
            row.crowd.append(self._measure(row.name, CROWD, self._schedule.crowd))
        except LoadFailedError as error:
            row.failure = f"the load generator failed: {error}"

    def _measure(
        self,
        name: str,
        clients: int,
        seconds: float,
        rate: float | None = None,
        warmup: float | None = None,
    ) -> Result:
        launch = self._launches[name]
        plan = replace(
            self._plan,
            port=launch.port,
            path=launch.path,
            field=launch.field,
            clients=clients,
            seconds=seconds,
            rate=rate,
            warmup=self._plan.warmup if warmup is None else warmup,
        )
        return measure(plan)

    def _opsin_alone(self, part: Part, server: Server) -> None:
        """Measurements of Opsin only: processor time, the curve, memory."""
        try:
            for clients in (1, CROWD):
                self._status.update(f"{part.title}: processor time with {clients} clients")
                part.cpu[clients] = self._cpu_by_process(server, clients)
            for clients in CURVE if self._schedule.curve else ():
                if self._left < 0:
                    break
                self._status.update(f"{part.title}: {clients} clients")
                part.curve[clients] = self._measure(OPSIN, clients, self._schedule.curve)
        except LoadFailedError as error:
            part.opsin.failure = f"the load generator failed: {error}"
        found = {"API": server.memory_mib("serve"), "worker": server.memory_mib("worker")}
        part.memory = {name: memory for name, memory in found.items() if memory is not None}

    def _poisson(self, part: Part, servers: dict[str, Server]) -> None:
        """Poisson arrivals at shares of Opsin's capacity, at the same rates for all servers."""
        schedule = self._schedule
        capacity = max(
            [part.opsin.throughput, *(r.throughput for r in part.curve.values())], default=0
        )
        for share in schedule.shares if capacity else ():
            for row in part.rows if share in schedule.peer_shares else [part.opsin]:
                if self._left < 0 or row.name not in servers or row.failure is not None:
                    continue
                self._status.update(f"{part.title}: {row.name}, Poisson arrivals, {share:.0%}")
                server = servers[row.name]
                server.thaw()
                try:
                    row.poisson[share] = self._measure(
                        row.name, _OPEN_CLIENTS, schedule.poisson, share * capacity
                    )
                except LoadFailedError as error:
                    row.failure = f"the load generator failed: {error}"
                if server in self._busy_when_idle:
                    server.freeze()

    def _cpu_by_process(self, server: Server, clients: int) -> dict[str, float]:
        """Core-milliseconds of an image in each process of Opsin, which has been warmed up."""
        before = server.cpu_by_process()
        result = self._measure(OPSIN, clients, self._schedule.crowd, warmup=0.0)
        after = server.cpu_by_process()
        images = max(1, result.served)
        return {
            name: 1000 * (spent - before.get(name, 0)) / images for name, spent in after.items()
        }


class Status:
    """Receives the current activity; the default ignores it."""

    def update(self, activity: str) -> None:
        """Show an activity until the next one."""
