"""`/v1/faces/calibrations`: measure a threshold for a false match rate on labeled images."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from contracts.faces.calibration import CalibrationBody
from contracts.jobs import Job
from service.auth.principal import principal_of, quota_key
from service.dependencies import ServicesDep
from service.faces.calibration import start_calibration
from service.http.errors import problem_responses
from service.http.headers import CreateKeyHeader
from service.http.responses import LOCATION, job_response
from service.openapi import examples

router = APIRouter(prefix="/v1/faces", tags=["Faces"])


@router.post(
    "/calibrations",
    operation_id="create_calibration",
    summary="Measure a threshold on images of known people",
    status_code=202,
    response_model=Job,
    responses={
        202: {
            **examples.json_response(
                "The job; its `result` is the threshold with its error rates.",
                examples.CALIBRATION,
            ),
            "headers": LOCATION,
        },
        **problem_responses(
            *("dataset_not_found", "not_trainable", "validation_error", "idempotency_conflict"),
            *("queue_full", "dependency_unavailable"),
        ),
    },
)
async def create_calibration(
    *,
    request: Request,
    body: CalibrationBody,
    services: ServicesDep,
    key: CreateKeyHeader = None,
) -> JSONResponse:
    """Compare all faces of a dataset, one class per person, and choose the threshold.

    The result has both error rates with confidence intervals, and lists what was left out; the
    DET curve is the artifact `det.png`. It does not change the current threshold: pass the job's id
    to `PUT /v1/faces/threshold` to do that. A key needs the scope `train` as well, since the result
    tells about the dataset.
    """
    principal_of(request).require("train")
    client = quota_key(request.scope)
    return job_response(await start_calibration(services, body, key, client))
