"""Whether the service can serve and what is missing, and the depths of the job queues."""

import asyncio
from contextlib import suppress

from contracts.errors import ModelNotFound, Unavailable
from contracts.inference.registry import JobQueueInfo, Readiness
from contracts.queue.clock import MAX_AHEAD_SECONDS
from contracts.queue.heartbeat import ModelState
from contracts.queue.redis_keys import DATASET_QUEUE, FACE_QUEUE, IMAGE_QUEUE, TRAINING_QUEUE
from models.catalog import CATALOG
from service.dependencies import Services

_DATABASE_SECONDS = 3.0


async def readiness_of(services: Services, model: str | None = None) -> Readiness:
    """The state of Redis, the database and the workers; never raises.

    Args:
        model: The model that must be ready; None for any.
    """
    redis = services.workers.redis_ok
    database = await _database_ok(services)
    models = [m for worker in services.workers.workers for m in worker.models]
    states: set[ModelState] = {m.state for m in models}
    serves = any(m.operations for m in models)
    if model is not None:
        serves = serves and _has_operations(services, model)
    unread = services.changes.unread
    silent = "Redis does not answer; check OPSIN_REDIS_URL."
    missing = [
        *([] if redis else [services.workers.redis_fault or silent]),
        *([] if database else ["The database does not answer; check OPSIN_DATABASE_URL."]),
        *([f"A change of the {' and '.join(unread)} cannot be read yet."] if unread else []),
        # Without Redis, no worker is known.
        *([] if serves or not redis else [_worker_detail(services, states, model)]),
    ]
    return Readiness(
        ready=not missing,
        redis="ok" if redis else "unreachable",
        database="ok" if database else "unreachable",
        worker="ok" if serves else "loading" if "loading" in states else "none",
        # Of the other models not even the names are for everybody.
        loading=[name for name in CATALOG if services.workers.model(name).state == "loading"],
        detail=" ".join(missing) or None,
        warnings=_clock_warnings(services),
    )


def _has_operations(services: Services, model: str) -> bool:
    with suppress(ModelNotFound):
        return bool(services.workers.model(model).operations)
    return False


def _clock_warnings(services: Services) -> list[str]:
    """Hosts whose clock is not that of Redis. They are not named: the response needs no key."""
    workers = (*services.workers.workers, *services.workers.job_workers)
    seconds = {
        "The clock of this API host": services.workers.clock.host_ahead,
        "The clock of a worker's host": max(
            (worker.clock_ahead for worker in workers if worker.clock_ahead is not None),
            key=abs,
            default=None,
        ),
    }
    return [
        f"{whose} is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} that of Redis. "
        "Nothing fails, but times in logs and records differ. Run NTP on all hosts; "
        "`opsin doctor` names them."
        for whose, ahead in seconds.items()
        if ahead is not None and abs(ahead) > MAX_AHEAD_SECONDS
    ]


async def _database_ok(services: Services) -> bool:
    try:
        async with asyncio.timeout(_DATABASE_SECONDS):
            return await services.shared_reads.run("database_ok", services.database_ok)
    except TimeoutError:
        return False


def _worker_detail(services: Services, states: set[ModelState], model: str | None) -> str:
    if model is not None and any(m.operations for w in services.workers.workers for m in w.models):
        return f"No worker has a model '{model}' that is ready; GET /v1/models says why."
    if not services.workers.workers:
        return "No worker is running; start one with `opsin worker`."
    if "loading" in states:
        return "The workers are still loading their models."
    return "No worker has a model that is ready; GET /v1/models says why."


def job_queues_of(services: Services) -> list[JobQueueInfo] | None:
    """All job queues, including empty ones; None while the database does not respond. Blocks."""
    try:
        depths = services.jobs.depths()
    except Unavailable:
        return None
    return [
        JobQueueInfo(
            name=name, queued=depths.get(name, (0, 0))[0], running=depths.get(name, (0, 0))[1]
        )
        for name in (TRAINING_QUEUE, IMAGE_QUEUE, DATASET_QUEUE, FACE_QUEUE)
    ]
