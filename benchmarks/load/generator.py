"""The load generator, with a closed and an open loop.

In a **closed loop**, each of a fixed number of clients waits for its response before it sends the
next request: this measures the capacity of a server. In an **open loop**, requests arrive by a
Poisson process whether the server keeps up or not: this measures what users experience. There,
latency counts from the time when a request *should* have been sent. A generator that counts from
the time when it actually sends omits exactly the delays that matter (coordinated omission).
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

from benchmarks.load.connection import (
    Connection,
    ConnectionLostError,
    Response,
    connect,
    request_of,
)
from benchmarks.load.plan import Plan

_RECONNECT_SECONDS = 0.05
_REFUSED = 429


@dataclass(slots=True)
class Record:
    """Raw measurements.

    Attributes:
        latencies: Seconds of responses and timeouts.
        errors: Number of failures by kind.
        refusals: Seconds of responses with status 429.
        bodies: Latency of each response with status 200, and its body if that is JSON.
        clients: Number of clients.
        waited: Seconds that all clients together spent on the counted requests.
        served: Responses with status 200, those before and after the measurement included.
        outcomes: Requests that ended after `began`, also those sent after the measurement.
        began: `time.monotonic()` at the start of the measurement.
        ended: `time.monotonic()` at the end of the last counted request.
        cpu: CPU seconds of this process from `began` to the end.
    """

    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    refusals: list[float] = field(default_factory=list)
    bodies: list[tuple[float, bytes]] = field(default_factory=list)
    clients: int = 1
    waited: float = 0.0
    served: int = 0
    outcomes: int = 0
    began: float = 0.0
    ended: float = 0.0
    cpu: float = 0.0


class Generator:
    """Runs one plan.

    Args:
        plan: The plan.
        images: The JPEG files to send in turn.
    """

    def __init__(self, plan: Plan, images: Sequence[bytes]) -> None:
        self._plan = plan
        paths = plan.paths or (plan.path,)
        requests = [
            request_of(plan.port, path, body, plan.field, plan.accept)
            for path, body in _pairs(paths, images)
        ]
        self._requests: Iterator[tuple[bytes, bytes]] = cycle(requests)
        self._record = Record(clients=plan.clients)
        self._until = 0.0
        self._awaited = 0  # counted requests without an outcome
        self._cpu_at_start = 0.0

    async def run(self) -> Record:
        """Warm up and measure."""
        now, record = time.monotonic(), self._record
        record.began = now + self._plan.warmup
        self._until = record.began + self._plan.seconds
        asyncio.get_running_loop().call_later(self._plan.warmup, self._record_cpu)
        await (self._closed() if self._plan.rate is None else self._open(self._plan.rate, now))
        record.cpu = time.process_time() - self._cpu_at_start
        return record

    def _record_cpu(self) -> None:
        self._cpu_at_start = time.process_time()

    async def _closed(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._plan.clients):
                group.create_task(self._closed_client())

    async def _closed_client(self) -> None:
        connection: Connection | None = None
        # The load stays the same until the last counted request has been answered. Otherwise a
        # slow server would answer its last requests in smaller batches.
        while (now := time.monotonic()) < self._until or self._awaited:
            connection = await self._send(connection, now)
        if connection is not None:
            connection.close()

    async def _open(self, rate: float, began: float) -> None:
        arrivals: asyncio.Queue[float | None] = asyncio.Queue()
        rng = random.Random(self._plan.seed)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._plan.clients):
                group.create_task(self._open_client(arrivals))
            due = began
            while (due := due + rng.expovariate(rate)) < self._until:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                arrivals.put_nowait(due)
            for _ in range(self._plan.clients):
                arrivals.put_nowait(None)

    async def _open_client(self, arrivals: "asyncio.Queue[float | None]") -> None:
        connection: Connection | None = None
        while (intended := await arrivals.get()) is not None:
            connection = await self._send(connection, intended)
        if connection is not None:
            connection.close()

    async def _send(self, connection: Connection | None, intended: float) -> Connection | None:
        """Send one request and record its outcome; returns the connection to use next."""
        head, body = next(self._requests)
        counts = self._record.began <= intended < self._until
        self._awaited += counts
        try:
            return await self._outcome(connection, intended, head, body)
        finally:
            self._awaited -= counts
            if counts:
                self._record.waited += time.monotonic() - intended

    async def _outcome(
        self, connection: Connection | None, intended: float, head: bytes, body: bytes
    ) -> Connection | None:
        try:
            if connection is None or not connection.is_open:
                connection = await connect(self._plan.port)
            async with asyncio.timeout(self._plan.timeout):
                response = await connection.post(head, body)
        except (TimeoutError, ConnectionLostError) as error:
            if connection is not None:
                connection.close()
            self._count(intended, "timeout" if isinstance(error, TimeoutError) else "connection")
            await asyncio.sleep(_RECONNECT_SECONDS)
            return None
        self._count(intended, response)
        return connection

    def _count(self, intended: float, outcome: Response | str) -> None:
        now, record = time.monotonic(), self._record
        record.served += not isinstance(outcome, str) and outcome.status == 200
        record.outcomes += now >= record.began
        if not record.began <= intended < self._until:
            return
        record.ended = now
        latency = now - intended
        if isinstance(outcome, str):
            record.errors[outcome] += 1
            if outcome == "timeout":
                record.latencies.append(latency)
        elif outcome.status == 200:
            record.latencies.append(latency)
            # Image bodies have no timings, and thousands of them would fill the memory.
            record.bodies.append((latency, outcome.body if outcome.body[:1] == b"{" else b""))
        else:
            record.errors[str(outcome.status)] += 1
            if outcome.status == _REFUSED:
                record.refusals.append(latency)


def _pairs(paths: Sequence[str], images: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    """Each of the more numerous ones once, with the others in turn."""
    count = max(len(paths), len(images))
    return zip(islice(cycle(paths), count), islice(cycle(images), count), strict=True)
