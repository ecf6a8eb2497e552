"""From a request for patterns to a job that waits; what cannot be is refused before it queues.

A repeated request is told its first answer before its names are resolved: an alias may have moved.
"""

import hashlib
import json
from typing import Any

from fastapi.concurrency import run_in_threadpool

from contracts.inference.explanation import FiltersRequest
from contracts.jobs import Job
from models.explain.layers import require_filters
from models.store.store import Store
from service.dependencies import Services


async def submit(asked: FiltersRequest, key: str | None, services: Services) -> Job:
    """Queue the job, or find the one that the same key and request have made before.

    Args:
        asked: As it was sent.
        key: The client's `Idempotency-Key`, if it sent one.
        services: What does the work.

    Raises:
        OpsinError: It cannot be done, as the route tells. Nothing was queued.
    """
    idempotency = (key, _digest(asked)) if key else None
    if idempotency and (job := await services.queue.earlier("filters", *idempotency)):
        return job
    told = await _pinned(asked, services)
    return await services.queue.submit_work("filters", told, idempotency=idempotency)


def _digest(asked: FiltersRequest) -> str:
    sent = json.dumps(asked.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(sent.encode()).hexdigest()


async def _pinned(asked: FiltersRequest, services: Services) -> dict[str, Any]:
    """The request with model and version named, and its layer and filters known to be there."""
    model = asked.model
    if model is None:
        version = None if asked.version is None else str(asked.version)
        model = services.presence.choose(None, version, "explain")[0].name
    number, default = await run_in_threadpool(_version, services.store, model, asked)
    layer = await services.layers.require(model, number, asked.layer or default)
    if layer is not None:
        require_filters(layer, asked.filters or ())
    return asked.model_copy(update={"model": model, "version": number}).model_dump(mode="json")


def _version(store: Store, model: str, asked: FiltersRequest) -> tuple[int, str]:
    """The version's number, and the layer that is meant when none is named."""
    number = store.resolve(model, asked.version)
    return number, store.manifest(model, number).explain_layer
