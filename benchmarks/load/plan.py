"""What a load generator is told to do, and what it reports: the two ends of a pipe."""

from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Plan:
    """One measurement.

    Attributes:
        port: The server's, on 127.0.0.1.
        path: What is posted to, with its query.
        pictures: A folder of JPEG files, sent in turn.
        clients: How many send, each as soon as it has its answer (a closed loop); the most
            connections of an open loop.
        rate: Requests a second that arrive by a Poisson process (an open loop); None: closed.
        seconds: What is measured.
        warmup: Seconds of the same load before, which are not.
        timeout: Seconds after which an answer counts as missing.
        seed: Of the arrivals.
        field: The form field a server wants the picture in; None: it takes the bare body.
        accept: The media type that is asked for.
    """

    port: int
    path: str
    pictures: str
    clients: int = 1
    rate: float | None = None
    seconds: float = 5.0
    warmup: float = 1.0
    timeout: float = 10.0
    seed: int = 8
    field: str | None = None
    accept: str = "*/*"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it. Latencies are milliseconds from the moment a request was meant to be sent.

    Attributes:
        seconds: What was measured, until the last answer of a closed loop's window.
        answered: Answers with status 200.
        throughput: Those a second.
        errors: How many failed, by status or by ``timeout``, ``connection``.
        latency: ``p50``, ``p90``, ``p95``, ``p99``, ``max``, ``mean``; a time-out counts as its
            bound. Empty where nothing was sent.
        refusals: The same of the answers with status 429.
        own_cpu_ms: What a request costs the generator itself, in core-milliseconds.
        stages: Mean ms by stage as the server tells them, where it does; ``rest`` is what they
            leave of the client's latency.
        batch_size: Mean batch that an answer was part of, where the server tells.
    """

    seconds: float
    answered: int
    throughput: float
    errors: dict[str, int] = field(default_factory=dict)
    latency: dict[str, float] = field(default_factory=dict)
    refusals: dict[str, float] = field(default_factory=dict)
    own_cpu_ms: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    batch_size: float | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, content: dict[str, Any]) -> Self:
        return cls(**content)
