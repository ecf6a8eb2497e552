"""`/v1/trainings` and `/v1/presets`: train a model on a dataset."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from contracts.jobs import Job
from contracts.pages import IndexCursor, PageLimit
from contracts.training.trainings import PresetList
from models.training.presets import PRESETS
from service.dependencies import ServicesDep
from service.http.body import JSON_TYPE
from service.http.deadlines import DeadlineDep
from service.http.errors import problem_responses
from service.http.headers import CreateKeyHeader
from service.http.responses import LOCATION, job_response
from service.openapi import examples
from service.training import submit

router = APIRouter(tags=["Trainings"])


@router.post(
    "/v1/trainings",
    operation_id="create_training",
    summary="Train a model on a dataset",
    status_code=202,
    response_model=Job,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                JSON_TYPE: {
                    "schema": {"$ref": "#/components/schemas/NewTraining"},
                    "examples": examples.TRAININGS,
                }
            },
        }
    },
    responses={
        202: {
            **examples.json_response("The job; its result is the new version.", examples.TRAINING),
            "headers": LOCATION,
        },
        **problem_responses(
            *(
                "bad_request",
                "dataset_not_found",
                "subject_not_found",
                "idempotency_conflict",
                "payload_too_large",
            ),
            *("unsupported_media_type", "validation_error", "not_trainable", "queue_full"),
            *("dependency_unavailable", "deadline_exceeded"),
        ),
    },
)
async def create_training(
    *, request: Request, deadline: DeadlineDep, services: ServicesDep, key: CreateKeyHeader = None
) -> JSONResponse:
    """Train a network on a dataset, and publish the result as a new version of `model`.

    Everything except `dataset_id`, `model` and `network` has a sensible default. `face_cnn` takes
    enrolled `subjects` instead of a dataset and learns from their stored frames. A `preset` fills
    in the fields that are not sent, including `network`. Follow the job's events; `promote` says
    when the new version is served.
    """
    job = await submit.submit(request, key, deadline, services)
    return job_response(job)


@router.get(
    "/v1/presets",
    operation_id="list_presets",
    summary="List the training presets",
    responses={
        200: examples.json_response("A page of presets.", examples.PRESETS),
        **problem_responses("validation_error"),
    },
)
async def list_presets(
    limit: Annotated[PageLimit, Query()] = 50, cursor: Annotated[IndexCursor, Query()] = "0"
) -> PresetList:
    """The configurations of classic tutorials: a training with `preset` uses its `request`."""
    return PresetList.of(list(PRESETS.values()), limit, cursor)
