"""`/v2`: the Open Inference Protocol, for clients of Triton and KServe."""

from functools import partial
from typing import Annotated, Any

import pydantic
from fastapi import APIRouter, Header, Request, Response

from contracts.errors import PayloadTooLarge, Unavailable, ValidationFailed
from contracts.settings import RELEASE
from service.dependencies import ServicesDep
from service.http.body import JSON_TYPE, read_body
from service.http.deadlines import DeadlineDep
from service.http.errors import problem_responses
from service.http.parts import ResponseInParts
from service.http.path_params import ModelRefDep, versioned
from service.inference.tensors import TensorInference
from service.openapi import examples
from service.protocols import oip
from service.protocols.availability import choose_any, info_of_version, repository_states
from service.protocols.oip_schemas import (
    IndexRequest,
    InferResponse,
    ModelMetadata,
    ModelReady,
    ModelState,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from service.queue.version_routing import find_version
from service.queue.workers import WorkerRegistry
from service.shared_reads import SHARE
from service.system.readiness import readiness_of

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

_MAX_INDEX_BYTES = 4096
_STATES = pydantic.TypeAdapter(list[ModelState])
_BINARY = "application/octet-stream"
_NOT_FOUND = problem_responses(
    "model_not_found", "version_not_found", "validation_error", "model_not_ready", plain=True
)
_NOT_READY = problem_responses(
    "model_not_found",
    "version_not_found",
    "validation_error",
    "model_not_ready",
    "no_worker",
    "queue_full",
    plain=True,
)
_REFUSED = problem_responses(
    "bad_request",
    "model_not_found",
    "version_not_found",
    "payload_too_large",
    "conflict",
    "unsupported_media_type",
    "validation_error",
    "queue_full",
    "dependency_unavailable",
    "model_not_ready",
    "no_worker",
    "draining",
    "deadline_exceeded",
    plain=True,
)
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "JSON, or JSON followed by the binary tensors in the order of the inputs, "
        f"with the length of the JSON in `{oip.LENGTH_HEADER}`.",
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/InferRequest"},
                "example": examples.INFER_REQUEST,
            },
            _BINARY: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_INFERRED: dict[str, Any] = {
    **examples.json_response("The requested outputs.", examples.INFER_RESPONSE),
    "model": InferResponse,
    "headers": {
        oip.LENGTH_HEADER: {
            "description": "The length of the JSON in bytes, if binary tensors follow it.",
            "schema": {"type": "integer"},
        }
    },
}
_INFERRED["content"][_BINARY] = {"schema": {"type": "string", "format": "binary"}}


@router.get(
    "",
    operation_id="oip_server",
    summary="The server and its extensions",
    responses={200: examples.json_response("The server.", examples.OIP_SERVER)},
)
async def get_server() -> ServerMetadata:
    """Name, release and the supported extensions of the protocol."""
    return ServerMetadata(name="opsin", version=RELEASE, extensions=list(oip.EXTENSIONS))


@router.get(
    "/health/live",
    operation_id="oip_live",
    summary="Is the server live?",
    responses={200: examples.json_response("It does.", {"live": True})},
)
async def get_live() -> ServerLive:
    """Like `/healthz`; needs no key."""
    return ServerLive()


@router.get(
    "/health/ready",
    operation_id="oip_ready",
    summary="Is the server ready?",
    responses={
        200: examples.json_response("It can.", {"ready": True}),
        **problem_responses("dependency_unavailable", plain=True),
    },
)
async def get_ready(services: ServicesDep) -> ServerReady:
    """Like `/readyz`; needs no key."""
    readiness = await readiness_of(services)
    if not readiness.ready:
        raise Unavailable(readiness.detail or "It is not ready yet.", retry_after=5)
    return ServerReady()


@router.get(
    "/models/{model}/versions/{version}",
    operation_id="oip_model_version",
    summary="A version's tensors",
    openapi_extra=versioned(),
    responses={200: examples.json_response("The model.", examples.OIP_MODEL), **_NOT_FOUND},
)
@router.get(
    "/models/{model}",
    operation_id="oip_model",
    summary="A model's versions and tensors",
    responses={200: examples.json_response("The model.", examples.OIP_MODEL), **_NOT_FOUND},
)
async def get_model(ref: ModelRefDep, services: ServicesDep) -> ModelMetadata:
    """The inputs and outputs of a model. A model that is still loading lists all it will have."""
    info = services.workers.model(ref.model)
    if ref.version is None:
        return oip.metadata(info, info.versions)
    version = find_version(info, ref.version)
    return oip.metadata(info_of_version(services.workers, info, version), [version])


@router.get(
    "/models/{model}/versions/{version}/ready",
    operation_id="oip_model_version_ready",
    summary="Is a version ready?",
    openapi_extra=versioned(),
    responses={
        200: examples.json_response("It can.", {"name": "squeezenet", "ready": True}),
        **_NOT_READY,
    },
)
@router.get(
    "/models/{model}/ready",
    operation_id="oip_model_ready",
    summary="Is a model ready?",
    responses={
        200: examples.json_response("It can.", {"name": "squeezenet", "ready": True}),
        **_NOT_READY,
    },
)
async def get_model_ready(ref: ModelRefDep, services: ServicesDep) -> ModelReady:
    """Whether it can return its default output; if not, why."""
    choose_any(services.workers, ref.model, ref.version)
    return ModelReady(name=ref.model)


@router.get(
    "/models/{model}/versions/{version}/config",
    operation_id="oip_model_version_config",
    summary="A version's configuration, in Triton's terms",
    openapi_extra=versioned(),
    responses={
        200: examples.json_response("The configuration.", examples.OIP_CONFIG),
        **_NOT_FOUND,
    },
)
@router.get(
    "/models/{model}/config",
    operation_id="oip_model_config",
    summary="A model's configuration, in Triton's terms",
    responses={
        200: examples.json_response("The configuration.", examples.OIP_CONFIG),
        **_NOT_FOUND,
    },
)
async def get_model_config(ref: ModelRefDep, services: ServicesDep) -> dict[str, Any]:
    """The part that Triton's tools read. `max_batch_size` is the most images in a request."""
    info = services.workers.model(ref.model)
    if ref.version is not None:
        info = info_of_version(services.workers, info, find_version(info, ref.version))
    return oip.configuration(info, services.settings.max_images)


@router.post(
    "/models/{model}/versions/{version}/infer",
    operation_id="oip_infer_version",
    summary="Run a version on a tensor of images",
    response_class=Response,
    openapi_extra=versioned(_BODY),
    responses={200: _INFERRED, **_REFUSED},
)
@router.post(
    "/models/{model}/infer",
    operation_id="oip_infer",
    summary="Run a model on a tensor of images",
    response_class=Response,
    openapi_extra=_BODY,
    responses={200: _INFERRED, **_REFUSED},
)
async def infer(
    *,
    request: Request,
    ref: ModelRefDep,
    deadline: DeadlineDep,
    services: ServicesDep,
    json_length: Annotated[
        str | None,
        Header(
            alias=oip.LENGTH_HEADER,
            description="The length of the JSON in bytes, if binary tensors follow it.",
            examples=["187"],
        ),
    ] = None,
) -> Response:
    """Probabilities, features or both for the images of one tensor.

    The input `image` is UINT8 RGB, [n, height, width, 3] of the model's input size; n is at most
    the images a request may hold. Outputs are `probabilities` and `features`, FP32, as JSON or as
    bytes; without `outputs`, the first that the model has. With `classification`, an output is the
    largest numbers as texts. The request succeeds or fails as a whole.
    """
    encoded = await TensorInference(services, request, ref, deadline).infer(json_length)
    if encoded.json_length is None:
        return Response(encoded.body, media_type="application/json")
    headers = {oip.LENGTH_HEADER: str(encoded.json_length)}
    return Response(encoded.body, media_type=_BINARY, headers=headers)


@router.post(
    "/repository/index",
    operation_id="oip_repository_index",
    summary="List all models and their versions",
    response_model=list[ModelState],
    openapi_extra={
        "requestBody": {
            "content": {
                "application/json": {
                    "schema": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
                    "example": {"ready": True},
                }
            }
        }
    },
    responses={
        200: examples.json_response("The models.", examples.OIP_INDEX),
        **problem_responses("bad_request", "payload_too_large", "validation_error", plain=True),
    },
)
async def list_repository(request: Request, services: ServicesDep) -> Response:
    """Every version and whether it is ready; with `ready`, only those that are."""
    only_ready = await _only_ready(request)
    name, make = f"repository, {only_ready=}", partial(_repository, services.workers, only_ready)
    content = await services.shared_reads.run(name, make, share=SHARE)
    return ResponseInParts(content, media_type=JSON_TYPE)


def _repository(workers: WorkerRegistry, only_ready: bool) -> bytes:
    states = [state for info in workers.models() for state in repository_states(workers, info)]
    shown = [state for state in states if state.state == "READY" or not only_ready]
    return _STATES.dump_json(shown)


async def _only_ready(request: Request) -> bool:
    """Whether the body asks for ready models only; an empty body asks for all.

    Raises:
        ValidationFailed: The body is invalid.
        PayloadTooLarge: It is far too long.
    """
    too_large = PayloadTooLarge(f"The body may have at most {_MAX_INDEX_BYTES} bytes.")
    body = await read_body(request, _MAX_INDEX_BYTES, too_large)
    if not body.strip():
        return False
    try:
        return IndexRequest.model_validate_json(body).ready
    except pydantic.ValidationError:
        raise ValidationFailed('Send nothing, {} or {"ready": true}.') from None
