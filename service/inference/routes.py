"""`/v1/classify` and `/v1/embed`."""

from contextlib import nullcontext
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from contracts.errors import ValidationFailed
from contracts.inference.inference import InferenceResponse, Resize
from contracts.jobs import Job
from service.connections.fast_route import FastRoute
from service.dependencies import Services, ServicesDep
from service.http.deadlines import Deadline, DeadlineDep
from service.http.errors import problem_responses
from service.http.headers import RESPOND_ASYNC, JobKeyHeader, PrefersAsync
from service.http.uploads import IMAGES_BODY
from service.inference.handler import InferenceHandler, InferenceParams
from service.inference.several import MAX_MODELS, SeveralModels, asked_models
from service.openapi import examples
from service.threads import are_many, run_by_size

router = APIRouter(tags=["Inference"], route_class=FastRoute)


def require_one_model(request: Request) -> None:
    """Refuse several models where one is asked; all but the last would be ignored.

    Raises:
        ValidationFailed: The parameter `model` is repeated with other values.
    """
    if len(set(request.query_params.getlist("model"))) > 1:
        raise ValidationFailed("Here, one 'model' can be asked at a time. Send a request for each.")


class ModelQuery(BaseModel):
    """The model and version. A misspelt parameter is refused, not ignored."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="The model's name. The default is the first model that is ready.",
        examples=["squeezenet"],
    )
    version: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="A version number or an alias. The default is `champion`.",
        examples=["champion"],
    )


class EmbedQuery(ModelQuery):
    """The model, and how an image becomes its input."""

    resize: Resize | None = Field(
        None,
        description="`crop` keeps the proportions and takes the center; `squash` keeps the whole "
        "image and changes the proportions. Default: as in the model's training, mostly `crop`.",
    )


class VectorQuery(EmbedQuery):
    """One model or several, and how an image becomes their input."""

    # A string in the document too, so that generated clients go on to take one. What is repeated
    # is read by `asked_models`.
    model: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="The model's name. The default is the first model that is ready. Repeat the "
        f"parameter to ask up to {MAX_MODELS} models about the same images; the answers are then "
        "in `models`.",
        examples=["squeezenet"],
    )


class ClassifyQuery(VectorQuery):
    """The models, their input, and the number of predictions."""

    top_k: int = Field(
        5, ge=1, le=1000, description="The number of classes to return, at most all of them."
    )


BODY: dict[str, Any] = {"requestBody": IMAGES_BODY}
DEFERRED: dict[str, Any] = {
    "model": Job,
    **examples.json_response(
        "With `Prefer: respond-async`: the job that will hold the result.", examples.JOB
    ),
    "headers": {
        "Location": {"description": "The job's address.", "schema": {"type": "string"}},
        "Preference-Applied": {"schema": {"type": "string", "enum": [RESPOND_ASYNC]}},
    },
}
PROBLEMS = problem_responses(
    "bad_request",
    "model_not_found",
    "version_not_found",
    "conflict",
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
    summary="Classify images",
    response_model=InferenceResponse,
    response_model_exclude_none=True,
    responses={
        200: examples.json_response(
            "The most probable classes of each image.", examples.CLASSIFICATION
        ),
        202: DEFERRED,
        **PROBLEMS,
    },
    openapi_extra=BODY,
)
async def classify(
    *,
    request: Request,
    query: Annotated[ClassifyQuery, Query()],
    deadline: DeadlineDep,
    deferred: PrefersAsync,
    services: ServicesDep,
    key: JobKeyHeader = None,
) -> Response:
    """Classify one image or several.

    If one of several images cannot be read, its result has an `error` and the others are still
    classified; if the only image cannot be read, the response is an error.
    """
    params = InferenceParams("classify", query.model, query.version, query.resize, query.top_k)
    return await _answer(request, params, deadline, services, key=key, deferred=deferred)


@router.post(
    "/v1/embed",
    operation_id="embed",
    summary="Embed images",
    response_model=InferenceResponse,
    response_model_exclude_none=True,
    responses={
        200: examples.json_response("The embedding of each image.", examples.EMBEDDING),
        202: DEFERRED,
        **PROBLEMS,
    },
    openapi_extra=BODY,
)
async def embed(
    *,
    request: Request,
    query: Annotated[VectorQuery, Query()],
    deadline: DeadlineDep,
    deferred: PrefersAsync,
    services: ServicesDep,
    key: JobKeyHeader = None,
) -> Response:
    """Embed one image or several: the pooled features of the network's base.

    Similar images have similar embeddings. Errors are as in classification.
    """
    params = InferenceParams("embed", query.model, query.version, query.resize)
    return await _answer(request, params, deadline, services, key=key, deferred=deferred)


async def _answer(
    request: Request,
    params: InferenceParams,
    deadline: Deadline,
    services: Services,
    *,
    key: str | None,
    deferred: bool,
) -> Response:
    """The response of one model or several, or the job that will have it."""
    models = asked_models(request)
    if len(models) > 1:
        if deferred:
            raise ValidationFailed(
                "A job has one model. Send a request for each, or leave out 'Prefer'."
            )
        several = SeveralModels(services, request, models, params, deadline)
        return await _json_response(await several.answer(), params, deadline)
    handler = InferenceHandler(services, request, params, deadline)
    if deferred:
        return job_accepted(await handler.submit_job(key))
    return await _json_response(await handler.answer(), params, deadline)


async def _json_response(
    result: InferenceResponse, params: InferenceParams, deadline: Deadline
) -> Response:
    """The response as JSON, without validating it a second time."""
    images = len(result.results) * max(1, len(result.models or ()))
    values = params.values_of(images)
    async with deadline.enforced() if are_many(values) else nullcontext():
        content = await run_by_size(values, result.model_dump_json, exclude_none=True)
    return Response(content, media_type="application/json")


def job_accepted(job: Job) -> JSONResponse:
    """The response to a request with `Prefer: respond-async`."""
    headers = {"Location": f"/v1/jobs/{job.id}", "Preference-Applied": RESPOND_ASYNC}
    return JSONResponse(job.model_dump(mode="json"), 202, headers)
