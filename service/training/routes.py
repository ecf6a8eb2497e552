"""`/v1/trainings` and `/v1/presets`: from a dataset to a version that is served."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from contracts.jobs import Job
from contracts.training.trainings import PresetList
from models.training.presets import preset_list
from service.dependencies import ServicesDep
from service.http import examples
from service.http.deadlines import Timed
from service.http.errors import problem_responses
from service.http.headers import CreationKey
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
                submit.JSON_TYPE: {
                    "schema": {"$ref": "#/components/schemas/NewTraining"},
                    "examples": examples.TRAININGS,
                }
            },
        }
    },
    responses={
        202: {
            **examples.shown("The job; its result is the version it made.", examples.TRAINING),
            "headers": {
                "Location": {"description": "The job's address.", "schema": {"type": "string"}}
            },
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
    *, request: Request, deadline: Timed, services: ServicesDep, key: CreationKey = None
) -> JSONResponse:
    """Train a network on a dataset, and publish what it has learned as a new version of `model`.

    All but `dataset_id`, `model` and `network` have defaults that work. `face_cnn` takes enrolled
    `subjects` in place of a dataset, and learns from the frames that are kept of them. A `preset`
    fills in what is not sent, `network` too. Follow the job's events; `promote` says when the new
    version is served.
    """
    job = await submit.submit(request, key, deadline, services)
    return JSONResponse(job.model_dump(mode="json"), 202, {"Location": f"/v1/jobs/{job.id}"})


@router.get(
    "/v1/presets",
    operation_id="list_presets",
    summary="List the presets of trainings",
    responses={200: examples.shown("All presets.", examples.PRESETS)},
)
async def list_presets() -> PresetList:
    """The set-ups of the classic tutorials: `preset` in a training stands for its `request`."""
    return preset_list()
