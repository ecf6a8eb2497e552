"""`/v1/faces/calibrations`: a threshold for a false-match rate, measured on people's pictures."""

import hashlib
import json

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from contracts.errors import ValidationFailed
from contracts.faces.calibration import CalibrationBody
from contracts.jobs import Job
from contracts.training.datasets import DatasetInfo
from models.faces.calibration.calibration import require_support
from service.dependencies import ServicesDep
from service.http import examples
from service.http.errors import problem_responses
from service.http.headers import CreationKey

router = APIRouter(prefix="/v1/faces", tags=["Faces"])


@router.post(
    "/calibrations",
    operation_id="create_calibration",
    summary="Measure a threshold on pictures of known people",
    status_code=202,
    response_model=Job,
    responses={
        202: {
            **examples.shown(
                "The job; its `result` is the threshold with its error rates.",
                examples.CALIBRATION,
            ),
            "headers": {
                "Location": {"description": "The job's address.", "schema": {"type": "string"}}
            },
        },
        **problem_responses(
            *("dataset_not_found", "not_trainable", "validation_error", "idempotency_conflict"),
            *("queue_full", "dependency_unavailable"),
        ),
    },
)
async def create_calibration(
    *, body: CalibrationBody, services: ServicesDep, key: CreationKey = None
) -> JSONResponse:
    """Compare all faces of a dataset, one class a person, and choose the threshold.

    The result tells both error rates with their confidence intervals, and who was left out; the
    curve is its artifact `det.png`. Nothing changes by it: `PUT /v1/faces/threshold` puts a
    threshold in force, and may name this job as where it comes from.
    """
    info = await run_in_threadpool(services.datasets.rows.get, body.dataset_id)
    _check(info, body)
    told = body.model_dump(mode="json")
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    job = await services.queue.submit_work(
        "calibration", told, idempotency=(key, digest) if key else None
    )
    return JSONResponse(job.model_dump(mode="json"), 202, {"Location": f"/v1/jobs/{job.id}"})


def _check(info: DatasetInfo, body: CalibrationBody) -> None:
    """Refuse what could not be done if every picture were of use."""
    counts = list(info.classes.values())
    impostors = (sum(counts) ** 2 - sum(count**2 for count in counts)) // 2
    require_support(impostors, body.target_fmr)
    unknown = sorted(set(body.groups or ()) - info.classes.keys())
    if unknown:
        named = ", ".join(repr(name) for name in unknown[:3])
        raise ValidationFailed(
            f"groups names {named}, and the dataset has no such class. Use its classes' names."
        )
