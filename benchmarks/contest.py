"""The contest: all servers of one network, kept running, measured in turns.

Whatever else the machine does meanwhile then meets all of them: a round is one turn of each, the
next begins with another, and a figure is the median of the rounds. A peer that is busy while nobody
asks is frozen when it is not its turn, or it would take from the others what they are measured by.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.contestants import OPSIN, PEERS, ROOT, Subject, opsin
from benchmarks.figures import Part, Row
from benchmarks.load.plan import Plan, Result
from benchmarks.load.process import LoadFailedError, measure
from benchmarks.preparation import Bench, peer_version
from benchmarks.servers import Launch, Server, ServerFailedError
from contracts.settings import RELEASE

CROWD = 16
CURVE = (1, 2, 4, 8, 16, 32)
_OPEN_CLIENTS = 256
_IDLE_SECONDS = 3.0
_BUSY_CORES = 0.05
_LAST_START_SECONDS = 60.0
_STOP_ALL_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How long everything takes.

    Attributes:
        rounds: Turns of each server.
        alone: Seconds of one client.
        crowd: Seconds of sixteen.
        warmup: Seconds before each.
        curve: Seconds at each number of clients; 0 leaves the curve out.
        poisson: Seconds at each share of capacity.
        shares: Of the capacity; none leaves Poisson arrivals out.
        start: Seconds a server may take to start.
    """

    rounds: int
    alone: float
    crowd: float
    warmup: float
    curve: float
    poisson: float
    shares: tuple[float, ...]
    start: float = 120.0


class Contest:
    """One network's part of the benchmark.

    Args:
        subject: The network.
        bench: Where pictures, store and logs are.
        weights: The caller's weights.
        pace: How long.
        until: `time.monotonic()` by which all of it should end.
        precisions: Values of OPSIN_PRECISION that Opsin is measured with besides.
        say: Told what happens.
    """

    def __init__(
        self,
        subject: Subject,
        bench: Bench,
        weights: Path,
        *,
        pace: Pace,
        until: float,
        first_port: int,
        precisions: Sequence[str] = (),
        say: "Say",
    ) -> None:
        self._subject = subject
        self._bench = bench
        self._pace = pace
        self._until = until
        self._say = say
        self._plan = Plan(0, "", str(bench.pictures.absolute()), warmup=pace.warmup)
        ours = opsin(subject, first_port, bench.home.absolute(), weights)
        self._launches: dict[str, Launch] = {OPSIN: ours}
        for port, value in enumerate(precisions, first_port + len(PEERS) + 1):
            home = bench.variant(value).absolute()
            self._launches[f"{OPSIN} {value}"] = opsin(subject, port, home, weights, value)
        self._ours = tuple(self._launches)
        for port, peer in enumerate(PEERS, first_port + 1):
            self._launches[peer.name] = peer.launch(subject, port, bench.folder.absolute())
        self._versions = dict.fromkeys(self._ours, RELEASE)
        self._versions |= {peer.name: peer_version(peer.package) for peer in PEERS}

    def run(self, part: Part, *, peers: bool) -> None:
        """Fill `part`, whatever fails on the way."""
        names = list(self._launches if peers else self._ours)
        part.rows = [Row(name, self._versions[name]) for name in names]
        with self._running(part.rows) as servers:
            self._rounds(part, servers)
            for row in part.rows:
                if row.name in servers and row.failure is None:
                    row.pss_mib = servers[row.name].pss_mib()
            if OPSIN in servers:
                self._opsin_alone(part, servers[OPSIN])

    @contextlib.contextmanager
    def _running(self, rows: Sequence[Row]) -> Iterator[dict[str, Server]]:
        """All that start, by name; the others' rows say why not."""
        servers: dict[str, Server] = {}
        try:
            for row in rows:
                if servers and self._left < _LAST_START_SECONDS:
                    row.failure = "no time was left to start it"
                    continue
                self._say(f"{self._subject.title}: starting {row.name}")
                log = (
                    self._bench.folder
                    / "logs"
                    / f"{self._subject.model}-{row.name.split()[0].lower()}.log"
                )
                log.parent.mkdir(parents=True, exist_ok=True)
                try:
                    server = Server(self._launches[row.name], folder=ROOT, log=log)
                except OSError as error:
                    row.failure = f"did not start: {error.strerror}"
                    continue
                servers[row.name] = server
                try:
                    server.await_ready(self._bench.picture(), seconds=self._pace.start)
                except ServerFailedError as error:
                    row.failure = str(error)
                    server.stop()
                    del servers[row.name]
                row.ready_seconds = server.ready_seconds
            yield servers
        finally:
            for server in servers.values():
                server.stop()

    def _rounds(self, part: Part, servers: dict[str, Server]) -> None:
        rows = [row for row in part.rows if row.name in servers]
        began = {row.name: servers[row.name].cpu_seconds() for row in rows}
        time.sleep(_IDLE_SECONDS)
        for row in rows:
            row.idle_cpu = (servers[row.name].cpu_seconds() - began[row.name]) / _IDLE_SECONDS
        # Of the peers only: Opsin, frozen, would be given up by its own heartbeat.
        peers = [row for row in rows if row.name not in self._ours]
        restless = [servers[row.name] for row in peers if row.idle_cpu > _BUSY_CORES]
        for server in restless:
            server.freeze()
        for number in range(self._pace.rounds):
            if number and self._left < self._after_rounds + self._round_seconds(len(rows)):
                break
            turn = number % len(rows) if rows else 0
            for row in rows[turn:] + rows[:turn]:
                self._say(f"{part.title}: round {number + 1} of {self._pace.rounds}, {row.name}")
                server = servers[row.name]
                server.thaw()
                self._turn(row)
                if server in restless:
                    server.freeze()
            part.rounds = number + 1

    @property
    def _left(self) -> float:
        """Seconds until all should have ended."""
        return self._until - time.monotonic()

    @property
    def _after_rounds(self) -> float:
        """Seconds that curve and Poisson arrivals will take."""
        pace = self._pace
        curve = len(CURVE) * (pace.curve + pace.warmup) if pace.curve else 0.0
        return curve + len(pace.shares) * (pace.poisson + pace.warmup) + _STOP_ALL_SECONDS

    def _round_seconds(self, servers: int) -> float:
        pace = self._pace
        alone = pace.alone + pace.warmup if pace.alone else 0.0
        return servers * (alone + pace.crowd + pace.warmup)

    def _turn(self, row: Row) -> None:
        try:
            if self._pace.alone:
                row.alone.append(self._measure(row.name, 1, self._pace.alone))
            row.crowd.append(self._measure(row.name, CROWD, self._pace.crowd))
        except LoadFailedError as error:
            row.failure = f"the load generator failed: {error}"

    def _measure(
        self, name: str, clients: int, seconds: float, rate: float | None = None
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
        )
        return measure(plan)

    def _opsin_alone(self, part: Part, server: Server) -> None:
        """What only Opsin is asked: its curve, Poisson arrivals, its memory."""
        try:
            for clients in CURVE if self._pace.curve else ():
                if self._left < 0:
                    break
                self._say(f"{part.title}: {clients} clients")
                part.curve[clients] = self._measure(OPSIN, clients, self._pace.curve)
            capacity = max(
                [part.opsin.throughput, *(r.throughput for r in part.curve.values())], default=0
            )
            for share in self._pace.shares if capacity else ():
                if self._left < 0:
                    break
                self._say(f"{part.title}: Poisson arrivals at {share:.0%} of capacity")
                rate = share * capacity
                part.poisson[share] = self._measure(OPSIN, _OPEN_CLIENTS, self._pace.poisson, rate)
        except LoadFailedError as error:
            part.opsin.failure = f"the load generator failed: {error}"
        part.memory = {"API": server.rss_mib("serve"), "worker": server.rss_mib("worker")}


class Say:
    """Told what happens now; the default tells nobody."""

    def __call__(self, what: str) -> None:
        """Show `what` until the next."""
