"""The OpenAPI document: what FastAPI derives from the routes, and what applies to all of them."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from contracts.problem import PlainError, Problem
from contracts.settings import Settings
from contracts.training.datasets import NewDataset
from contracts.training.trainings import FACE_CNN, TrainingRequest
from service.auth.scopes import Access, access_of
from service.http.deadlines import HEADER as TIMEOUT_HEADER
from service.http.errors import problem_responses, uses_plain_errors
from service.http.multipart import FORM_TYPE
from service.middleware.request_id import HEADER as REQUEST_ID_HEADER
from service.protocols.oip_schemas import InferRequest

DESCRIPTION = """\
Classify images and see why.

Every error is an `application/problem+json` whose `code` names what happened and whose `detail`
says what to do about it; on the paths of the standard protocols it is `{"error": "…"}`, as
their clients expect. Every response carries the `X-Request-Id` of its log lines.

Each operation lists scopes, one of which a key needs; `admin` includes all. On a loopback address,
and as long as no key was ever created, the service answers its own machine without one.
"""
_REQUEST_ID = {
    "name": REQUEST_ID_HEADER,
    "in": "header",
    "required": False,
    "description": "Used if it is printable ASCII of at most 128 characters.",
    "schema": {"type": "string"},
}
_REQUEST_ID_RESPONSE = {
    "description": "The id of this request in the log.",
    "schema": {"type": "string"},
}
# Schemas that routes refer to but do not pass to FastAPI.
_EXTRA_MODELS: tuple[type[BaseModel], ...] = (Problem, PlainError, InferRequest, NewDataset)
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
        title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in _UNUSED_SCHEMAS:
        schemas.pop(name, None)
    for model in _EXTRA_MODELS:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
    schemas |= _new_training()
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, method, operation in _operations(document):
        access = access_of(method.upper(), path)
        _complete(operation, settings, access=access, plain=uses_plain_errors(path))
    return document


def _new_training() -> dict[str, Any]:
    """`TrainingRequest` as it may be sent: a preset may replace the network."""
    schema = TrainingRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    parts: dict[str, Any] = schema.pop("$defs", {})
    schema["required"] = ["model"]
    schema["anyOf"] = [{"required": ["network"]}, {"required": ["preset"]}]
    schema["oneOf"] = [{"required": ["dataset_id"]}, {"required": ["subjects"]}]
    schema["properties"]["network"]["enum"].append(FACE_CNN)
    return parts | {"NewTraining": schema | {"title": "NewTraining"}}


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _complete(
    operation: dict[str, Any], settings: Settings, *, access: Access, plain: bool
) -> None:
    """Add what every operation has, and the limits of the settings."""
    operation.setdefault("parameters", []).append(_REQUEST_ID)
    responses = operation["responses"]
    codes = ["internal_error"]
    if not access:
        operation["security"] = []
    else:
        operation["security"] = [{"bearer": list(access)}, {"header": list(access)}]
        if settings.is_loopback and settings.api_key is None:
            operation["security"].append({})
        # `bad_request` is for a key in the URL.
        codes += ["bad_request", "unauthorized", "forbidden", "rate_limited"]
    for status, response in problem_responses(*codes, plain=plain).items():
        _add(responses, str(status), response)
    for response in responses.values():
        response.setdefault("headers", {})[REQUEST_ID_HEADER] = _REQUEST_ID_RESPONSE
    for parameter in operation["parameters"]:
        if parameter["name"] == TIMEOUT_HEADER:
            parameter["schema"] = {
                "type": "integer",
                "minimum": 1,
                "maximum": settings.max_timeout_ms,
                "default": settings.default_timeout_ms,
            }
    form = operation.get("requestBody", {}).get("content", {}).get(FORM_TYPE)
    if form and "image" in form["schema"]["properties"]:
        form["schema"]["properties"]["image"]["maxItems"] = settings.max_images


def _add(responses: dict[str, Any], status: str, response: dict[str, Any]) -> None:
    """Add a response, merging it with one that is documented for the status already."""
    documented = responses.setdefault(status, response)
    if documented is response or response["description"] in documented["description"]:
        return
    documented["description"] = f"{documented['description']} {response['description']}"
    for media_type, content in response["content"].items():
        known = documented.setdefault("content", {}).setdefault(media_type, content)
        known.setdefault("examples", {}).update(content["examples"])
    documented.setdefault("headers", {}).update(response.get("headers", {}))
