"""`/v1/classify` and `/v1/embed`."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from contracts.inference.inference import InferenceResponse, Resize
from contracts.jobs import Job
from service.dependencies import ServicesDep
from service.http import examples
from service.http.deadlines import Timed
from service.http.errors import problem_responses
from service.http.fast_route import PlainRoute
from service.http.headers import RESPOND_ASYNC, Deferred, IdempotencyKey
from service.http.uploads import IMAGES_BODY
from service.inference.handler import Ask, Inference

router = APIRouter(tags=["Inference"], route_class=PlainRoute)


class ModelQuery(BaseModel):
    """What to ask. A misspelt parameter is refused, not ignored."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="A model's name; left out, the first that is ready.",
        examples=["squeezenet"],
    )
    version: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="A version's number or an alias; left out, `champion`.",
        examples=["champion"],
    )


class EmbedQuery(ModelQuery):
    """What to embed with."""

    resize: Resize = Field(
        "crop",
        description="`crop` keeps the proportions and cuts the centre out; `squash` keeps all of "
        "the picture and bends the proportions.",
    )


class ClassifyQuery(EmbedQuery):
    """What to classify with."""

    top_k: int = Field(
        5, ge=1, le=1000, description="Classes to tell; no more than the model has are."
    )


BODY: dict[str, Any] = {"requestBody": IMAGES_BODY}
DEFERRED: dict[str, Any] = {
    "model": Job,
    **examples.shown("With `Prefer: respond-async`: the job that will hold it.", examples.JOB),
    "headers": {
        "Location": {"description": "The job's address.", "schema": {"type": "string"}},
        "Preference-Applied": {"schema": {"type": "string", "enum": [RESPOND_ASYNC]}},
    },
}
PROBLEMS = problem_responses(
    "bad_request",
    "model_not_found",
    "version_not_found",
    "idempotency_conflict",
    "payload_too_large",
    "unsupported_media_type",
    "validation_error",
    "invalid_image",
    "image_too_large",
    "queue_full",
    "dependency_unavailable",
    "model_not_ready",
    "no_worker",
    "draining",
    "deadline_exceeded",
)


@router.post(
    "/v1/classify",
    operation_id="classify",
    summary="Say what is in a picture",
    response_model=InferenceResponse,
    response_model_exclude_none=True,
    responses={
        200: examples.shown("The most probable classes of each image.", examples.CLASSIFICATION),
        202: DEFERRED,
        **PROBLEMS,
    },
    openapi_extra=BODY,
)
async def classify(
    *,
    request: Request,
    query: Annotated[ClassifyQuery, Query()],
    deadline: Timed,
    deferred: Deferred,
    services: ServicesDep,
    key: IdempotencyKey = None,
) -> Response:
    """Classify one image or several.

    Of several images, one that cannot be read gives its own `error` and the others still answer;
    a lone one is an error answer.
    """
    ask = Ask("classify", query.model, query.version, query.resize, query.top_k)
    inference = Inference(services, request, ask, deadline)
    return accepted(await inference.job(key)) if deferred else told(await inference.answer())


@router.post(
    "/v1/embed",
    operation_id="embed",
    summary="Turn a picture into a vector",
    response_model=InferenceResponse,
    response_model_exclude_none=True,
    responses={
        200: examples.shown("The embedding of each image.", examples.EMBEDDING),
        202: DEFERRED,
        **PROBLEMS,
    },
    openapi_extra=BODY,
)
async def embed(
    *,
    request: Request,
    query: Annotated[EmbedQuery, Query()],
    deadline: Timed,
    deferred: Deferred,
    services: ServicesDep,
    key: IdempotencyKey = None,
) -> Response:
    """Embed one image or several: the pooled features of the network's base.

    Similar pictures lie close to each other. Errors are as in classification.
    """
    ask = Ask("embed", query.model, query.version, query.resize)
    inference = Inference(services, request, ask, deadline)
    return accepted(await inference.job(key)) if deferred else told(await inference.answer())


def told(answer: InferenceResponse) -> Response:
    """The answer as it is sent. It was validated when it was made, and is written only once."""
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")


def accepted(job: Job) -> JSONResponse:
    """The answer to who asked for a job."""
    headers = {"Location": f"/v1/jobs/{job.id}", "Preference-Applied": RESPOND_ASYNC}
    return JSONResponse(job.model_dump(mode="json"), 202, headers)
