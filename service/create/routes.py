"""`/v1/style_transfers` and `/v1/dreams`."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from contracts.create.requests import DreamRequest, StyleTransferRequest
from contracts.jobs import Job
from service.create.form import body_of
from service.create.submit import DREAM_FIELDS, STYLE_FIELDS, submit_dream, submit_style_transfer
from service.dependencies import ServicesDep
from service.http.deadlines import DeadlineDep
from service.http.errors import problem_responses
from service.http.headers import CreateKeyHeader
from service.http.responses import LOCATION, job_response
from service.openapi import examples

router = APIRouter(tags=["Creation"])

_PROBLEMS = problem_responses(
    "bad_request",
    "conflict",
    "idempotency_conflict",
    "payload_too_large",
    "unsupported_media_type",
    "validation_error",
    "invalid_image",
    "image_too_large",
    "queue_full",
    "model_not_ready",
    "dependency_unavailable",
    "deadline_exceeded",
)


def _accepted(kind: str) -> dict[int | str, dict[str, Any]]:
    response = examples.json_response(
        "The job; `preview.png` is replaced while it runs, `result.png` is the result.",
        examples.JOB | {"kind": kind},
    )
    return {202: response | {"headers": LOCATION}}


@router.post(
    "/v1/style_transfers",
    operation_id="style_transfer",
    summary="Paint an image in the style of others",
    status_code=202,
    response_model=Job,
    responses={
        **_accepted("style_transfer"),
        **_PROBLEMS,
        **problem_responses("layer_not_found"),
    },
    openapi_extra=body_of(STYLE_FIELDS, StyleTransferRequest),
)
async def style_transfer(
    *,
    request: Request,
    deadline: DeadlineDep,
    services: ServicesDep,
    key: CreateKeyHeader = None,
) -> JSONResponse:
    """Paint `content` in the style of one to four images, by optimization or in one pass.

    A cancelled job keeps its latest preview. The settings are in the text of each PNG.
    """
    return job_response(await submit_style_transfer(request, services, deadline, key))


@router.post(
    "/v1/dreams",
    operation_id="dream",
    summary="Let a network exaggerate what it sees",
    status_code=202,
    response_model=Job,
    responses={
        **_accepted("dream"),
        **_PROBLEMS,
        **problem_responses("model_not_found", "version_not_found", "layer_not_found"),
    },
    openapi_extra=body_of(DREAM_FIELDS, DreamRequest),
)
async def dream(
    *,
    request: Request,
    deadline: DeadlineDep,
    services: ServicesDep,
    key: CreateKeyHeader = None,
) -> JSONResponse:
    """Change an image until it excites layers, or a class, of a network more.

    A cancelled job keeps its latest preview. The settings are in the text of each PNG.
    """
    return job_response(await submit_dream(request, services, deadline, key))
