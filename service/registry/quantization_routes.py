"""`/v1/models/{name}/versions/{version}/quantize`: an int8 copy of a version, on request."""

import hashlib
import json
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from contracts.errors import Forbidden, NotTrainable
from contracts.inference.registry import QuantizeBody
from contracts.jobs import Job
from models.catalog import CATALOG
from models.store.store import Store
from service.auth import audit
from service.auth.principal import caller_of
from service.dependencies import ServicesDep
from service.http import examples
from service.http.errors import problem_responses
from service.http.headers import CreationKey
from service.registry.version_routes import Name, Number

router = APIRouter(prefix="/v1/models/{name}", tags=["Models"])


@router.post(
    "/versions/{version}/quantize",
    operation_id="quantize_version",
    summary="Make an int8 copy of a version",
    status_code=202,
    response_model=Job,
    responses={
        202: examples.shown(
            "The job; its `result` is the new version with its accuracy beside the old one's.",
            examples.JOB | {"kind": "quantize"},
        ),
        **problem_responses(
            *("model_not_found", "version_not_found", "dataset_not_found", "not_trainable"),
            *("idempotency_conflict", "validation_error", "queue_full", "dependency_unavailable"),
        ),
    },
)
async def quantize_version(
    *,
    request: Request,
    name: Name,
    version: Number,
    body: QuantizeBody,
    services: ServicesDep,
    key: CreationKey = None,
) -> JSONResponse:
    """Turn weights and activations into 8-bit integers: about four times as quick on a CPU.

    Both versions are measured on labelled pictures that the calibration has not seen; the new one
    is promoted only if it lost no more than `max_accuracy_loss`. To let it be promoted in a
    published network, the key needs the scope `models` as well.
    """
    if body.promote and name in CATALOG:
        _require_models(request)
    await run_in_threadpool(services.datasets.rows.get, body.dataset_id)
    told = await run_in_threadpool(_request, services.store, name, version, body)
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    job = await services.queue.submit_work(
        "quantize", told, idempotency=(key, digest) if key else None
    )
    if body.promote:
        await audit.done(request, services, "promotion_asked", f"{name} by {job.id}")
    return JSONResponse(job.model_dump(mode="json"), 202, {"Location": f"/v1/jobs/{job.id}"})


def _require_models(request: Request) -> None:
    """Check that the key may change what the clients of a published network are answered by.

    Raises:
        Forbidden: It may train, and no more.
    """
    if not caller_of(request).may("models"):
        raise Forbidden(
            "To promote a version of a published network, a key needs the scope `models` as well "
            "as `train`. Send `promote` as false, or use such a key."
        )


def _request(store: Store, name: str, version: int, body: QuantizeBody) -> dict[str, Any]:
    """What the job is told; what it would refuse is refused here, before anybody waits."""
    manifest = store.manifest(name, store.resolve(name, version))
    if "serve" not in manifest.endpoints or manifest.precision == "int8":
        raise NotTrainable(
            f"Version {version} of '{name}' has no classifier in float32 to quantize. "
            "Name another version."
        )
    return {"model": name, "version": version} | body.model_dump(mode="json")
