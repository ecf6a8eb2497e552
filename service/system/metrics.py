"""`/metrics`: what all processes have counted, and the state of the installation.

Every API process reports the same, so a scrape of any of them is enough.
"""

from collections import Counter
from functools import partial

import structlog

from contracts.inference.registry import Readiness
from contracts.metrics.exposition import IsServed, Merged, exposition, media_type_of
from contracts.metrics.registry import Values
from contracts.settings import RELEASE
from database.jobs.queries import JobCounts
from service.dependencies import Services
from service.shared_reads import SHARE
from service.system.readiness import readiness_of
from service.threads import run_in_threadpool

log = structlog.get_logger()


async def metrics_of(services: Services, accept: str = "") -> tuple[bytes, str]:
    """All metrics in the format that `accept` prefers, and its media type."""
    media_type = media_type_of(accept)
    make = partial(_made, services, media_type)
    return await services.shared_reads.make(f"metrics as {media_type}", make, share=SHARE)


async def _made(services: Services, media_type: str) -> tuple[bytes, str]:
    if services.metrics_service is None:  # only this process is known
        own = services.metrics.read() | {"kind": "api", "host": "", "process": ""}
        snapshots, retained = [own], Values()
    else:
        snapshots, retained = await services.metrics_service.read()
    readiness, counts = await readiness_of(services), None
    if readiness.database == "ok":
        try:
            counts = await services.shared_reads.run("job_counts", services.jobs.counts)
        except Exception:  # everything else is still worth knowing
            log.exception("jobs_not_counted")

    def write() -> tuple[bytes, str]:
        merged = Merged()
        merged.add_all(snapshots, retained)
        _add_state(merged, services, readiness, counts)
        return exposition(merged.families(served_versions(services)), media_type)

    return await run_in_threadpool(write)


def served_versions(services: Services) -> IsServed:
    """Whether a version is served: an alias points to it, or a worker has loaded it.

    With an empty version: whether there is such a model.

    Without workers everything counts as served that an alias points to, so that the series of a
    version do not end because its workers are being replaced.
    """
    served = {
        (model.name, str(version))
        for model in services.workers.models()
        for version in model.aliases.values()
    }
    served |= {
        (model.name, str(model.version))
        for worker in services.workers.workers
        for model in worker.models
        if model.operations
    }
    served |= {(model.name, "") for model in services.workers.models()}
    served |= {(model, "") for model, _ in served}
    return lambda model, version: (model, version) in served


def _add_state(
    merged: Merged, services: Services, readiness: Readiness, counts: JobCounts | None
) -> None:
    """Add what is not counted but read."""
    parts = {"redis": readiness.redis, "database": readiness.database, "worker": readiness.worker}
    merged.set("info", 1, RELEASE)
    merged.set("ready", readiness.ready)
    for part, state in parts.items():
        merged.set("part_ready", state == "ok", part)
    for model in services.workers.models():
        merged.set("model_ready", model.state == "ready", model.name)
        merged.set("store_versions", len(model.versions), model.name)
    _add_workers(merged, services)
    _add_queues(merged, services)
    if counts is not None:
        _add_jobs(merged, counts)


def _add_workers(merged: Merged, services: Services) -> None:
    workers = services.workers
    merged.set("workers", len(workers.workers), "inference")
    merged.set("workers", len(workers.job_workers), "job")
    for beat in (*workers.workers, *workers.job_workers):
        merged.set("worker_heartbeat_timestamp_seconds", beat.beat_at, beat.id, beat.host)
    loaded = Counter(
        (held.name, str(held.version))
        for worker in workers.workers
        for held in worker.models
        if held.operations
    )
    for labels, count in loaded.items():
        merged.set("loaded_workers", count, *labels)


def _add_queues(merged: Merged, services: Services) -> None:
    for queue in services.workers.queues():
        _, *labels = queue.name.split(":")
        merged.set("queue_images", queue.depth, *labels)
        if queue.drain_rate is not None:
            merged.set("queue_drained_images_per_second", queue.drain_rate, *labels)


def _add_jobs(merged: Merged, counts: JobCounts) -> None:
    for labels, number in counts.by_state.items():
        merged.set("jobs", number, *labels)
    for queue, seconds in counts.oldest_seconds.items():
        merged.set("job_queue_age_seconds", seconds, queue)
    merged.set("job_overdue_seconds", counts.overdue_seconds)
