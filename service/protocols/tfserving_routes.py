"""`/v1/models/{model}:predict` and `…/metadata`: TensorFlow Serving's REST interface."""

from typing import Any

from fastapi import APIRouter, Request, Response

from service.dependencies import ServicesDep
from service.http import examples
from service.http.deadlines import DeadlineDep
from service.http.errors import problem_responses
from service.http.path_params import ModelRefDep, labelled, versioned
from service.inference.tensors import TensorInference
from service.protocols import tfserving
from service.protocols.tfserving import Metadata, Predictions
from service.queue.version_routing import find_model, find_version

router = APIRouter(prefix="/v1/models", tags=["TensorFlow Serving"])

_ANY_JSON: dict[str, Any] = {"type": ["array", "object"]}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "`instances` or `inputs`: nested numbers, or base64 of image files.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "signature_name": {"type": "string", "enum": [*tfserving.SIGNATURES]},
                        "instances": {"type": "array"},
                        "inputs": _ANY_JSON,
                    },
                },
                "example": examples.PREDICT_REQUEST,
            }
        },
    }
}
_PREDICTED: dict[int | str, dict[str, Any]] = {
    200: {
        **examples.json_response("A row of numbers for each image.", examples.PREDICT_RESPONSE),
        "model": Predictions,
    },
    **problem_responses(
        "bad_request",
        "model_not_found",
        "version_not_found",
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
        plain=True,
    ),
}
_DESCRIBED: dict[int | str, dict[str, Any]] = {
    200: examples.json_response("The signatures.", examples.TF_METADATA),
    **problem_responses(
        "model_not_found", "version_not_found", "validation_error", "model_not_ready", plain=True
    ),
}


@router.post(
    "/{model}/labels/{label}:predict",
    operation_id="tf_predict_label",
    summary="Run a labelled version, as TensorFlow Serving",
    response_class=Response,
    openapi_extra=labelled(_BODY),
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
    "/{model}/labels/{label}/metadata",
    operation_id="tf_metadata_label",
    summary="A labelled version's signatures, as TensorFlow Serving",
    openapi_extra=labelled(),
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
    info = find_model(services.workers.models(), ref.model)
    version = find_version(info, ref.version)
    return tfserving.metadata(info, version)
