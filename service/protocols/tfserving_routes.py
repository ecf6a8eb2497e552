"""`/v1/models/{model}:predict` and `…/metadata`: TensorFlow Serving's REST interface."""

from typing import Any

from fastapi import APIRouter, Request, Response

from contracts.errors import NotFound
from contracts.inference.registry import ModelStatus
from service.dependencies import ServicesDep
from service.http.deadlines import DeadlineDep
from service.http.errors import problem_responses
from service.http.path_params import ModelRefDep, labeled, versioned
from service.inference.tensors import TensorInference
from service.openapi import examples
from service.protocols import tfserving
from service.protocols.availability import info_of_version, model_status
from service.protocols.tfserving import Metadata, PredictResponse
from service.queue.version_routing import find_version

router = APIRouter(prefix="/v1/models", tags=["TensorFlow Serving"])

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "`instances` or `inputs`: nested numbers, or base64 of image files.",
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/PredictRequest"},
                "example": examples.PREDICT_REQUEST,
            }
        },
    }
}
_PREDICTED: dict[int | str, dict[str, Any]] = {
    200: {
        **examples.json_response("A row of numbers for each image.", examples.PREDICT_RESPONSE),
        "model": PredictResponse,
    },
    **problem_responses(
        "bad_request",
        "model_not_found",
        "version_not_found",
        "payload_too_large",
        "conflict",
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
        plain=True,
    ),
}
_DESCRIBED: dict[int | str, dict[str, Any]] = {
    200: examples.json_response("The signatures.", examples.TF_METADATA),
    **problem_responses(
        "model_not_found", "version_not_found", "validation_error", "model_not_ready", plain=True
    ),
}


async def _refuse(request: Request) -> Response:
    """TensorFlow Serving's other two methods, which take its `tf.Example`, and KServe's third."""
    method = request.scope["path"].rpartition(":")[2]
    raise NotFound(
        f"The server does not support :{method}. Send images to :predict, which returns numbers, "
        "or to POST /v1/classify, which returns labels."
    )


# First, because `/{model}/labels/{label}` would also match them.
for _version in ("", "/versions/{version}", "/labels/{label}"):
    for _method in ("classify", "regress", "explain"):
        router.add_api_route(
            f"/{{model}}{_version}:{_method}",
            _refuse,
            methods=["GET", "POST"],
            include_in_schema=False,
        )


@router.post(
    "/{model}/labels/{label}:predict",
    operation_id="tf_predict_label",
    summary="Run a labeled version, as TensorFlow Serving",
    response_class=Response,
    openapi_extra=labeled(_BODY),
    responses=_PREDICTED,
)
@router.post(
    "/{model}/versions/{version}:predict",
    operation_id="tf_predict_version",
    summary="Run a version, as TensorFlow Serving",
    response_class=Response,
    openapi_extra=versioned(_BODY),
    responses=_PREDICTED,
)
@router.post(
    "/{model}:predict",
    operation_id="tf_predict",
    summary="Run a model, as TensorFlow Serving",
    response_class=Response,
    openapi_extra=_BODY,
    responses=_PREDICTED,
)
async def predict(
    request: Request, ref: ModelRefDep, deadline: DeadlineDep, services: ServicesDep
) -> Response:
    """The numbers that the signature returns for each image.

    An image is nested uint8 RGB numbers of the model's input size, or `{"b64": …}`, the base64 of
    an image file of any size and accepted format. Signatures: `serving_default` and `serve`
    (probabilities), `features`. The request succeeds or fails as a whole.
    """
    body = await TensorInference(services, request, ref, deadline).predict()
    return Response(body, media_type="application/json")


@router.get(
    "/{model}/labels/{label}",
    operation_id="tf_status_label",
    summary="A labeled version's state, as TensorFlow Serving",
    openapi_extra=labeled(),
    responses={
        200: examples.json_response(
            "The state.", {"model_version_status": examples.MODEL_DETAIL["model_version_status"]}
        ),
        **problem_responses(
            *("model_not_found", "version_not_found", "validation_error", "model_not_ready"),
            plain=True,
        ),
    },
)
async def get_status(ref: ModelRefDep, services: ServicesDep) -> ModelStatus:
    """Whether the version that an alias points to is loaded.

    `/v1/models/{name}` and `/v1/models/{name}/versions/{version}` say the same of theirs.
    """
    info = services.workers.model(ref.model)
    version = find_version(info, ref.version)
    status = model_status(services.workers, info, [version])
    return ModelStatus(model_version_status=status)


@router.get(
    "/{model}/labels/{label}/metadata",
    operation_id="tf_metadata_label",
    summary="A labeled version's signatures, as TensorFlow Serving",
    openapi_extra=labeled(),
    responses=_DESCRIBED,
)
@router.get(
    "/{model}/versions/{version}/metadata",
    operation_id="tf_metadata_version",
    summary="A version's signatures, as TensorFlow Serving",
    openapi_extra=versioned(),
    responses=_DESCRIBED,
)
@router.get(
    "/{model}/metadata",
    operation_id="tf_metadata",
    summary="A model's signatures, as TensorFlow Serving",
    responses=_DESCRIBED,
)
async def get_metadata(ref: ModelRefDep, services: ServicesDep) -> Metadata:
    """The inputs and outputs of each signature, with their types and shapes."""
    info = services.workers.model(ref.model)
    version = find_version(info, ref.version)
    return tfserving.metadata(info_of_version(services.workers, info, version), version)
