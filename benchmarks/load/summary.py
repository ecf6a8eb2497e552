"""Summarizes raw measurements."""

import json
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from benchmarks.load.generator import Record
from benchmarks.load.plan import Result

_STAGES = ("decode", "queue", "compute")
_PERCENTILES = (50, 90, 95, 99)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of sorted values."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def summarize(record: Record, *, closed: bool) -> Result:
    """The result of one measurement.

    The throughput of a closed loop is the number of clients divided by the mean time that one of
    them spends on a response. Responses per second of a measurement that lasts two batches of a
    slow server would depend on where in a batch it starts.
    """
    seconds = max(record.ended - record.began, 1e-9)
    clients_seconds = record.waited / record.clients if closed else seconds
    stages, batch_size = _stages(record.bodies)
    return Result(
        seconds=round(seconds, 3),
        answered=len(record.bodies),
        served=record.served,
        throughput=round(len(record.bodies) / max(clients_seconds, 1e-9), 2),
        errors=dict(record.errors),
        latency=_latency(record.latencies),
        refusals=_latency(record.refusals),
        own_cpu_ms=round(record.cpu / max(record.outcomes, 1) * 1000, 4),
        stages=stages,
        batch_size=batch_size,
    )


def _latency(latencies: Sequence[float]) -> dict[str, float]:
    if not latencies:
        return {}
    ordered = sorted(latencies)
    figures = {f"p{percent}": percentile(ordered, percent) for percent in _PERCENTILES}
    figures |= {"max": ordered[-1], "mean": fmean(ordered)}
    return {name: round(seconds * 1000, 3) for name, seconds in figures.items()}


def _stages(bodies: Sequence[tuple[float, bytes]]) -> tuple[dict[str, float], float | None]:
    """Mean milliseconds by stage and mean batch size, of responses that report them."""
    reported = [(latency, timed) for latency, body in bodies if (timed := _timed(body))]
    if not reported:
        return {}, None
    means = {
        stage: fmean(answer["timing_ms"][stage] for _, answer in reported) for stage in _STAGES
    }
    means["rest"] = fmean(latency for latency, _ in reported) * 1000 - sum(means.values())
    batches = [answer["batch_size"] for _, answer in reported if "batch_size" in answer]
    batch = round(fmean(batches), 2) if batches else None
    return {stage: round(value, 3) for stage, value in means.items()}, batch


def _timed(body: bytes) -> dict[str, Any] | None:
    if b'"timing_ms"' not in body:
        return None
    content: dict[str, Any] = json.loads(body)
    return content
