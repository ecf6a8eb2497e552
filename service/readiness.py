"""Whether the service can serve: everything it stands on is asked, and what is silent is named."""

import asyncio

from fastapi.concurrency import run_in_threadpool

from contracts.presence import ModelState
from contracts.registry import Readiness
from service.services import Services

_DATABASE_SECONDS = 3.0


async def readiness_of(services: Services) -> Readiness:
    """The state of Redis, the database and the workers; never raises."""
    redis = services.presence.redis_ok
    database = await _database_ok(services)
    held = [m for worker in services.presence.workers for m in worker.models]
    states: set[ModelState] = {m.state for m in held}
    serves = any(m.operations for m in held)
    missing = [
        *([] if redis else ["Redis does not answer; check OPSIN_REDIS_URL."]),
        *([] if database else ["The database does not answer; check OPSIN_DATABASE_URL."]),
        *([] if serves else [_worker_detail(services, states)]),
    ]
    return Readiness(
        ready=not missing,
        redis="ok" if redis else "unreachable",
        database="ok" if database else "unreachable",
        worker="ok" if serves else "loading" if "loading" in states else "none",
        detail=" ".join(missing) or None,
    )


async def _database_ok(services: Services) -> bool:
    try:
        async with asyncio.timeout(_DATABASE_SECONDS):
            return await run_in_threadpool(services.database_ok)
    except TimeoutError:
        return False


def _worker_detail(services: Services, states: set[ModelState]) -> str:
    if not services.presence.workers:
        return "No worker is running; start one with `opsin worker`."
    if "loading" in states:
        return "The workers are still loading their models."
    return "No worker holds a model that is ready; GET /v1/models says why."
