"""The input and the output of the load generator."""

from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Plan:
    """One measurement.

    Attributes:
        port: Port of the server on 127.0.0.1.
        path: URL path and query.
        images: A folder of JPEG files, sent in turn.
        clients: Number of clients of a closed loop, or of connections of an open loop.
        rate: Requests per second of a Poisson process (open loop); None for a closed loop.
        seconds: Duration of the measurement.
        warmup: Seconds of the same load before the measurement.
        timeout: Seconds after which a response counts as missing.
        seed: Seed of the arrivals.
        field: Form field of the image; None to send it as the body.
        accept: The Accept header.
        paths: Several paths, asked in turn; then `path` is unused.
    """

    port: int
    path: str
    images: str
    clients: int = 1
    rate: float | None = None
    seconds: float = 5.0
    warmup: float = 1.0
    timeout: float = 10.0
    seed: int = 8
    field: str | None = None
    accept: str = "*/*"
    paths: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Result:
    """The result. Latencies are milliseconds from the time when a request should have been sent.

    Attributes:
        seconds: Duration of the measurement, until the last response.
        answered: Responses with status 200 to requests sent in time.
        throughput: Responses with status 200 per second; see `benchmarks.load.summary`.
        served: All responses with status 200, also those before and after the measurement.
        errors: Number of failures by status, or ``timeout`` or ``connection``.
        latency: ``p50``, ``p90``, ``p95``, ``p99``, ``max``, ``mean``; a timeout counts as its
            limit. Empty if nothing was sent.
        refusals: The same of responses with status 429.
        own_cpu_ms: Core-milliseconds of the generator per request.
        stages: Mean ms of each stage reported by the server, if any; ``rest`` is the remainder of
            the client's latency.
        batch_size: Mean batch size reported by the server, if any.
    """

    seconds: float
    answered: int
    throughput: float
    served: int = 0
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
