"""Triton's statistics of the models, from what the workers count."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from contracts.queue.heartbeat import BatchStatistics, VersionStatistics

_NANOSECONDS = 1e9


class Duration(BaseModel):
    """A number of events, and how long all of them took together."""

    count: int = 0
    ns: int = 0


class InferenceDurations(BaseModel):
    """What images waited for. Opsin counts images, where Triton counts requests."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration = Duration()
    compute_infer: Duration
    compute_output: Duration = Duration()
    cache_hit: Duration = Duration()
    cache_miss: Duration = Duration()


class BatchDurations(BaseModel):
    """The batches of one size."""

    batch_size: int
    compute_input: Duration = Duration()
    compute_infer: Duration
    compute_output: Duration = Duration()


class ModelStatistics(BaseModel):
    """The statistics of one version."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceDurations
    response_stats: dict[str, Any] = {}
    batch_stats: list[BatchDurations]
    memory_usage: list[dict[str, Any]] = []


class StatisticsResponse(BaseModel):
    """The statistics of all versions that were asked for."""

    model_stats: list[ModelStatistics]


def statistics_of(name: str, version: int, reports: Iterable[VersionStatistics]) -> ModelStatistics:
    """The sum of what all workers report about a version."""
    own = [report for report in reports if (report.model, report.version) == (name, version)]
    batches = _batches(batch for report in own for batch in report.batches)
    images = sum(report.images for report in own)
    queue_ns = int(sum(report.queue_seconds for report in own) * _NANOSECONDS)
    # Each image waits until its batch is done.
    compute_ns = sum(batch.compute_infer.ns * batch.batch_size for batch in batches)
    return ModelStatistics(
        name=name,
        version=str(version),
        last_inference=int(max((report.last_at for report in own), default=0) * 1000),
        inference_count=images,
        execution_count=sum(batch.compute_infer.count for batch in batches),
        inference_stats=InferenceDurations(
            success=Duration(count=images, ns=queue_ns + compute_ns),
            fail=Duration(count=sum(report.failed for report in own)),
            queue=Duration(count=images, ns=queue_ns),
            compute_infer=Duration(count=images, ns=compute_ns),
        ),
        batch_stats=batches,
    )


def _batches(reported: Iterable[BatchStatistics]) -> list[BatchDurations]:
    by_size: dict[int, Duration] = {}
    for batch in reported:
        duration = by_size.setdefault(batch.size, Duration())
        duration.count += batch.batches
        duration.ns += int(batch.compute_seconds * _NANOSECONDS)
    return [
        BatchDurations(batch_size=size, compute_infer=duration)
        for size, duration in sorted(by_size.items())
    ]
