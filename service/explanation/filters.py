"""Submits a filters job; a request that cannot succeed is refused before it is queued.

A repeated request gets the first job before its model and version are resolved, because an alias
may have moved in between.
"""

import hashlib
import json
from typing import Any

from contracts.inference.explanation import FiltersRequest
from contracts.inference.manifest import Manifest
from contracts.jobs import Job
from models.explain.layers import require_filters
from models.store.store import Store
from service.auth.face_models import require_usable
from service.auth.principal import Principal
from service.dependencies import Services
from service.threads import run_in_threadpool


async def submit(
    body: FiltersRequest, key: str | None, services: Services, client: str, principal: Principal
) -> Job:
    """Queue the job, or return the one that the same key and request made before.

    Args:
        body: The request as it was sent.
        key: The client's `Idempotency-Key`, if it sent one.
        services: The application's services.
        client: From `quota_key`.
        principal: Who sends it; some models need the scope `faces`.

    Raises:
        OpsinError: The request cannot succeed; the route lists why. Nothing was queued.
    """
    idempotency = (key, _fingerprint(body)) if key else None
    if idempotency and (job := await services.job_queue.earlier("filters", *idempotency)):
        return job
    request = await _resolve(body, services, principal)
    return await services.job_queue.submit_work(
        "filters", request, idempotency=idempotency, client=client
    )


def _fingerprint(body: FiltersRequest) -> str:
    sent = json.dumps(_as_job(body), sort_keys=True)
    return hashlib.sha256(sent.encode()).hexdigest()


async def _resolve(
    body: FiltersRequest, services: Services, principal: Principal
) -> dict[str, Any]:
    """The request with model and version filled in, its layer and filters checked."""
    model = body.model
    if model is None:
        version = None if body.version is None else str(body.version)
        model = services.workers.choose(None, version, "explain")[0].name
    manifest = await run_in_threadpool(_manifest, services.store, model, body)
    await require_usable(services, principal, manifest)
    number, name = manifest.version, body.layer or manifest.explain_layer
    layer = await services.layers.require(model, number, name)
    if layer is not None:
        require_filters(layer, body.filters or ())
    return _as_job(body.model_copy(update={"model": model, "version": number}))


def _as_job(body: FiltersRequest) -> dict[str, Any]:
    """The request of the job: what a job worker of the release before can read, if it could run."""
    request = body.model_dump(mode="json")
    if request["contrast"] == FiltersRequest.model_fields["contrast"].default:
        del request["contrast"]
    return request


def _manifest(store: Store, model: str, body: FiltersRequest) -> Manifest:
    return store.manifest(model, store.resolve(model, body.version))
