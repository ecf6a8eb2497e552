"""`/v1/models/{name}/versions/{version}/quantize`: an int8 copy of a version."""

import hashlib
import json

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from contracts.errors import Forbidden, NotTrainable
from contracts.inference.manifest import Manifest
from contracts.inference.registry import QuantizeBody
from contracts.jobs import Job
from models.catalog import CATALOG
from models.store.store import Store
from service.auth import audit
from service.auth.face_models import require_usable
from service.auth.principal import principal_of, quota_key
from service.datasets.kept import dataset_kept
from service.dependencies import Services, ServicesDep
from service.http.errors import problem_responses
from service.http.headers import CreateKeyHeader
from service.http.responses import job_response
from service.jobs.disk_room import require_disk
from service.openapi import examples
from service.registry.version_routes import Name, Number
from service.threads import run_in_threadpool

router = APIRouter(prefix="/v1/models/{name}", tags=["Models"])


@router.post(
    "/versions/{version}/quantize",
    operation_id="quantize_version",
    summary="Make an int8 copy of a version",
    status_code=202,
    response_model=Job,
    responses={
        202: examples.json_response(
            "The job; its `result` is the new version with both accuracies.",
            examples.JOB | {"kind": "quantize"},
        ),
        **problem_responses(
            *("model_not_found", "version_not_found", "dataset_not_found", "not_trainable"),
            *("conflict", "idempotency_conflict", "validation_error", "queue_full"),
            "dependency_unavailable",
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
    key: CreateKeyHeader = None,
) -> JSONResponse:
    """Convert weights and activations to 8-bit integers: about four times as fast on a CPU.

    Both versions are evaluated on labeled images that the calibration has not seen; the new one
    is promoted only if it lost no more than `max_accuracy_loss`. To promote it in a published
    network, the key also needs the scope `models`.
    """
    parameters = {"model": name, "version": version} | body.model_dump(mode="json")
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()
    if key and (earlier := await services.job_queue.earlier("quantize", key, digest)):
        return job_response(earlier)
    manifest = await run_in_threadpool(_manifest, services.store, name, version)
    await require_usable(services, principal_of(request), manifest)
    if body.promote and name in CATALOG:
        _require_models(request)
    _require_quantizable(manifest)
    await run_in_threadpool(_require_disk, services, manifest)
    async with dataset_kept(services, body.dataset_id):
        job = await services.job_queue.submit_work(
            "quantize",
            parameters,
            idempotency=(key, digest) if key else None,
            client=quota_key(request.scope),
        )
    if body.promote:
        await audit.record(request, services, "promotion_asked", f"{name} by {job.id}")
    return job_response(job)


def _require_models(request: Request) -> None:
    """Check that the key may change which version of a published network serves.

    Raises:
        Forbidden: It lacks the scope `models`.
    """
    if not principal_of(request).may("models"):
        raise Forbidden(
            "To promote a version of a published network, a key needs the scope `models` as well "
            "as `train`. Send `promote` as false, or use such a key."
        )


def _manifest(store: Store, name: str, version: int) -> Manifest:
    return store.manifest(name, store.resolve(name, version))


def _require_disk(services: Services, manifest: Manifest) -> None:
    size = sum(file.size for file in manifest.files.values())
    require_disk(services.settings, 2 * size)  # the copy, and the graphs in int8


def _require_quantizable(manifest: Manifest) -> None:
    """Refuse a version that the job would refuse.

    Raises:
        NotTrainable: It has no classifier in float32.
    """
    if "serve" not in manifest.endpoints or manifest.precision == "int8":
        raise NotTrainable(
            f"Version {manifest.version} of '{manifest.model}' has no classifier in float32 to "
            "quantize. Name another version."
        )
