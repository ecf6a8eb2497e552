"""The OpenAPI document: what FastAPI derives from the routes, and what applies to all of them."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel

from contracts.problem import PlainError, Problem
from contracts.settings import Settings
from contracts.training.datasets import NewDataset
from contracts.training.trainings import FACE_CNN, TrainingRequest
from service.auth.scopes import access_of
from service.http.errors import problem_examples, uses_plain_errors
from service.middleware.request_id import HEADER as REQUEST_ID_HEADER
from service.openapi.operations import (
    REQUEST_ID_PARAMETER,
    REQUEST_ID_RESPONSE,
    complete_operation,
)
from service.openapi.schemas import (
    complete_arrays,
    drop_request_defaults,
    drop_unused_examples,
    rename_schemas,
)
from service.protocols.oip_schemas import InferRequest, LoadRequest
from service.protocols.tfserving import PredictRequest

DESCRIPTION = """\
Classify images and see why.

Every error is an `application/problem+json` whose `code` names what happened and whose `detail`
says what to do about it; on the paths of the standard protocols it is `{"error": "…"}`, as
their clients expect. Every response carries the `X-Request-Id` of its log lines.

Each operation says which scope a key needs; where there are several, one of them is enough, and
`admin` includes all. On a loopback address, and as long as no key was ever created, the service
answers its own machine without one.
"""
_LICENCE = {"name": "Apache License 2.0", "identifier": "Apache-2.0"}
# Relative to the address of the document, so that it is right wherever the service runs.
_SERVERS = [{"url": "/", "description": "The service that this document comes from."}]
_TAGS = {
    "Inference": "Classify and embed images.",
    "Explanation": "See why: heatmaps, feature maps, filters.",
    "Creation": "Paint an image in the style of others, and let networks dream.",
    "Jobs": "Follow, cancel and delete long tasks, and download the files that they made.",
    "Datasets": "Labeled images to train on.",
    "Trainings": "Learn new classes from a dataset.",
    "Models": "Models, their versions and aliases.",
    "Faces": "Detect, enroll, recognize and log in by face.",
    "Open Inference Protocol": "For clients of Triton and KServe.",
    "TensorFlow Serving": "For clients of TensorFlow Serving.",
    "Operations": "Health, readiness and the state of the installation.",
    "Keys": "API keys and the audit log.",
}
# Schemas that routes refer to but do not pass to FastAPI.
_EXTRA_MODELS: tuple[type[BaseModel], ...] = (
    Problem,
    PlainError,
    InferRequest,
    LoadRequest,
    PredictRequest,
    NewDataset,
)
_UNUSED_SCHEMAS = ("HTTPValidationError", "ValidationError")


def install(app: FastAPI, settings: Settings) -> None:
    """Make `app` serve the document, which is built at the first request for it."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, settings)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign] # FastAPI's documented way


def _document(app: FastAPI, settings: Settings) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        license_info=_LICENCE,
        servers=_SERVERS,
        tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
        routes=app.routes,
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in _UNUSED_SCHEMAS:
        schemas.pop(name, None)
    for model in _EXTRA_MODELS:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
    schemas |= _new_training()
    components["examples"] = problem_examples()
    components["headers"] = {REQUEST_ID_HEADER: REQUEST_ID_RESPONSE}
    components["parameters"] = {REQUEST_ID_HEADER: REQUEST_ID_PARAMETER}
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, method, operation in _operations(document):
        access = access_of(method.upper(), path)
        complete_operation(operation, settings, access=access, plain=uses_plain_errors(path))
    _restore_examples(document, app)
    complete_arrays(document)
    drop_request_defaults(document)
    rename_schemas(document)
    drop_unused_examples(document)
    return document


def _new_training() -> dict[str, Any]:
    """`TrainingRequest` as it may be sent: a preset may replace the network."""
    schema = TrainingRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    parts: dict[str, Any] = schema.pop("$defs", {})
    # Not as `anyOf` and `oneOf`, from which generators make classes without fields.
    schema["description"] += " Send `dataset_id` or `subjects`, and `network` or `preset`."
    schema["required"] = ["model"]
    schema["properties"]["network"]["enum"].append(FACE_CNN)
    return parts | {"NewTraining": schema | {"title": "NewTraining"}}


def _restore_examples(document: dict[str, Any], app: FastAPI) -> None:
    """Put the examples of the routes in again, because FastAPI drops every null from them."""
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        for method in route.methods or ():
            described = document["paths"][context.path][method.lower()]["responses"]
            for status, response in route.responses.items():
                shown = described[str(status)].get("content", {})
                for media_type, content in response.get("content", {}).items():
                    if "example" in content:
                        shown[media_type]["example"] = content["example"]


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation
