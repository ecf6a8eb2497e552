"""The two ways to load a server, and their clock.

In a **closed loop** a fixed number of clients each wait for their answer before they ask again:
it shows what a server can do at most. In an **open loop** requests arrive when they arrive, by a
Poisson process, whether the server keeps up or not: it shows what people will feel. There the
latency runs from the moment a request *should* have been sent. A generator that measures from
the moment it got round to sending omits exactly the waits that matter (coordinated omission).
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle

from benchmarks.load.connection import Answer, Connection, ConnectionLostError, connect, request_of
from benchmarks.load.plan import Plan

_RECONNECT_SECONDS = 0.05
_REFUSED = 429


@dataclass(slots=True)
class Record:
    """What was measured, raw.

    Attributes:
        latencies: Seconds, of answers and of time-outs.
        errors: Failures by kind.
        refusals: Seconds, of answers with status 429.
        bodies: Answers with status 200 with their latency; of those in JSON the body.
        began: `time.monotonic()` at which counting began.
        ended: When the last counted request ended.
        cpu: CPU seconds of this process from `began` to the end.
    """

    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    refusals: list[float] = field(default_factory=list)
    bodies: list[tuple[float, bytes]] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0
    cpu: float = 0.0


class Generator:
    """Runs one plan.

    Args:
        plan: What to do.
        pictures: The JPEG files to send in turn.
    """

    def __init__(self, plan: Plan, pictures: Sequence[bytes]) -> None:
        self._plan = plan
        requests = [
            request_of(plan.port, plan.path, body, plan.field, plan.accept) for body in pictures
        ]
        self._requests: Iterator[tuple[bytes, bytes]] = cycle(requests)
        self._record = Record()
        self._until = 0.0
        self._cpu_at_start = 0.0

    async def run(self) -> Record:
        """Warm up, measure, and return what was measured."""
        now, record = time.monotonic(), self._record
        record.began = now + self._plan.warmup
        self._until = record.began + self._plan.seconds
        asyncio.get_running_loop().call_later(self._plan.warmup, self._note_cpu)
        await (self._closed() if self._plan.rate is None else self._open(self._plan.rate, now))
        record.cpu = time.process_time() - self._cpu_at_start
        return record

    def _note_cpu(self) -> None:
        self._cpu_at_start = time.process_time()

    async def _closed(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._plan.clients):
                group.create_task(self._client())

    async def _client(self) -> None:
        connection: Connection | None = None
        while (now := time.monotonic()) < self._until:
            connection = await self._ask(connection, now)
        if connection is not None:
            connection.close()

    async def _open(self, rate: float, began: float) -> None:
        arrivals: asyncio.Queue[float | None] = asyncio.Queue()
        chance = random.Random(self._plan.seed)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._plan.clients):
                group.create_task(self._server_of(arrivals))
            at = began
            while (at := at + chance.expovariate(rate)) < self._until:
                await asyncio.sleep(max(0.0, at - time.monotonic()))
                arrivals.put_nowait(at)
            for _ in range(self._plan.clients):
                arrivals.put_nowait(None)

    async def _server_of(self, arrivals: "asyncio.Queue[float | None]") -> None:
        connection: Connection | None = None
        while (intended := await arrivals.get()) is not None:
            connection = await self._ask(connection, intended)
        if connection is not None:
            connection.close()

    async def _ask(self, connection: Connection | None, intended: float) -> Connection | None:
        """Send one request and note what comes of it; the connection to use next."""
        head, body = next(self._requests)
        try:
            if connection is None or not connection.is_open:
                connection = await connect(self._plan.port)
            async with asyncio.timeout(self._plan.timeout):
                answer = await connection.post(head, body)
        except (TimeoutError, ConnectionLostError) as error:
            if connection is not None:
                connection.close()
            self._note(intended, "timeout" if isinstance(error, TimeoutError) else "connection")
            await asyncio.sleep(_RECONNECT_SECONDS)
            return None
        self._note(intended, answer)
        return connection

    def _note(self, intended: float, outcome: Answer | str) -> None:
        now, record = time.monotonic(), self._record
        if intended < record.began:
            return
        record.ended = now
        latency = now - intended
        if isinstance(outcome, str):
            record.errors[outcome] += 1
            if outcome == "timeout":
                record.latencies.append(latency)
        elif outcome.status == 200:
            record.latencies.append(latency)
            # A picture tells no timings, and thousands of them would fill the memory.
            record.bodies.append((latency, outcome.body if outcome.body[:1] == b"{" else b""))
        else:
            record.errors[str(outcome.status)] += 1
            if outcome.status == _REFUSED:
                record.refusals.append(latency)
